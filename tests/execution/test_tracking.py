"""The wandb mirror: real offline files, read with wandb's own reader."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from equisep.config import Config, ConfigError, EquisepError, Tracking, measure_id
from equisep.execution import mirror_store
from equisep.measures import Epoch, fit_law
from equisep.store import DamagedRun, Run, all_runs
from tests.conftest import Ended, run_one
from tests.processes import call
from tests.store.test_readers import rows_read_by_wandb


def read_rows(results: Path, run: str) -> list[dict[str, object]]:
    """Return the history rows of every segment of a wandb run, in order, from wandb's own reader."""
    files = sorted(results.glob(f"wandb/offline-run-*-{run}*/*.wandb"))
    return [row for file in files for row in rows_read_by_wandb(file)]


def test_epochs_and_layers_are_logged_in_one_wandb_run_per_run(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    outcomes = [run_one(configure("tracking=offline", f"seed={seed}")) for seed in (1, 2)]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    for outcome in outcomes:
        rows = read_rows(tmp_path, outcome.run.id)
        losses = [row["training/loss"] for row in rows if "training/loss" in row]
        assert losses == [epoch.loss for epoch in outcome.run.epochs()]
        assert outcome.final is not None
        (last, picture) = [row for row in rows if "train/D/00" in row or "train/layers._type" in row][-2:]
        fuzziness = [last[f"train/D/{layer:02d}"] for layer in range(4)]
        assert fuzziness == list(outcome.final.fuzziness)
        assert last["train/r"] == fit_law(fuzziness).pearson_r
        assert last["train/accuracy"] == outcome.final.accuracy
        assert picture["train/layers._type"] == "image-file"
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/train/*.png"))


def test_a_mirror_can_be_written_again_from_the_store(configure: Callable[..., Config], tmp_path: Path) -> None:
    outcome = run_one(configure())
    assert not (tmp_path / "wandb").exists()
    assert mirror_store(tmp_path, Tracking(mode="offline", project="equisep")) == 1
    rows = read_rows(tmp_path, outcome.run.id)
    assert [row["training/loss"] for row in rows if "training/loss" in row] == [e.loss for e in outcome.run.epochs()]
    assert sum("train/D/03" in row for row in rows) == 2
    assert sum("train/layers._type" in row for row in rows) == 1
    assert mirror_store(tmp_path, Tracking(mode="offline", project="equisep")) == 1
    again = read_rows(tmp_path, outcome.run.id)
    assert [row.get("train/r") for row in again] == [row.get("train/r") for row in rows]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_one_run_is_mirrored_by_its_id(equisep: Callable[..., Ended], trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    run = next(all_runs(tmp_path))
    mirrored = equisep("mirror", "--run", run.id[:8], "tracking=offline", f"results={tmp_path}")
    assert mirrored.code == 0, mirrored.err
    assert f"mirrored run {run.id} of {tmp_path}" in mirrored.out
    (log,) = tmp_path.glob("wandb/offline-run-*")
    assert log.name.endswith(run.id)


def test_another_measure_has_its_own_keys(configure: Callable[..., Config], tmp_path: Path) -> None:
    run_one(configure("tracking=offline"))
    evaluation = run_one(configure("tracking=offline", "measure=evaluation"))
    unnamed = configure("tracking=offline", "measure.batch_norm=running")
    outcome = run_one(unnamed)
    assert outcome.final is not None
    assert evaluation.final is not None
    rows = read_rows(tmp_path, outcome.run.id)
    # Running statistics in batches of 100 are no convention with a name.
    prefixes = {"evaluation": evaluation.final, f"measure_{measure_id(unnamed.measure)}": outcome.final}
    for prefix, final in prefixes.items():
        values = [row[f"{prefix}/train/D/03"] for row in rows if f"{prefix}/train/D/03" in row]
        assert values[-1] == final.fuzziness[3]
        assert final.fuzziness[3] not in [row.get("train/D/03") for row in rows]


def test_each_segment_of_a_resumed_run_has_every_epoch_once(configure: Callable[..., Config], tmp_path: Path) -> None:
    config = configure(
        "tracking=offline", "training.epochs=7", "compute.checkpoint_every=3", "compute.checkpoint_seconds=0"
    )
    with pytest.MonkeyPatch.context() as patch:
        record = Run.append_epoch

        def stop(run: Run, epoch: Epoch) -> None:
            record(run, epoch)
            if epoch.epoch == 5:
                raise KeyboardInterrupt

        patch.setattr(Run, "append_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run_one(config)
    outcome = run_one(config)
    rows = [row for row in read_rows(tmp_path, outcome.run.id) if "training/loss" in row]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7]


def test_online_without_an_account_names_the_remedy(tmp_path: Path) -> None:
    # In a process of its own: wandb keeps what it once found out about the account.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = plain | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    failed = call("training=smoke", "tracking=online", f"results={tmp_path}", folder=tmp_path, environment=environment)
    assert failed.code == 2
    assert "wandb login" in failed.err.splitlines()[-1]


def test_mirroring_needs_a_mode_and_reports_a_damaged_run_after_the_others(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    runs = [run_one(configure("architecture.depth=4", f"seed={seed}")).run for seed in (1, 2)]
    with pytest.raises(ConfigError, match=r"tracking\.mode=off"):
        mirror_store(tmp_path, Tracking("off", "equisep"))
    first = min(runs, key=lambda run: run.id)
    (first.path / "state.json").write_text("{")
    with pytest.raises(DamagedRun, match=rf"{first.id}/state\.json .*1 of 2 runs are mirrored"):
        mirror_store(tmp_path, Tracking("offline", "equisep"))
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert first.id not in log.name


def test_what_cannot_be_mirrored_is_an_error_of_the_mirror_and_a_warning_of_training(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "wandb").write_text("a file where wandb's folder should be")
    with pytest.warns(UserWarning, match="wandb stopped"):
        outcome = run_one(configure("tracking=offline"))
    assert outcome.state == "done"
    with (
        pytest.warns(UserWarning, match="wandb stopped"),
        pytest.raises(EquisepError, match="0 of 1 runs are mirrored"),
    ):
        mirror_store(tmp_path, Tracking("offline", "equisep"))
