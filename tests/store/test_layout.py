"""Stores of the first layout: a miniature one, written by version 0.1.0 before the wings, is read and resumed as it is.

It has nine runs of width 8 on 100 images: four of the experiment optimizers, one with a robustness evaluation, one that
diverged, one that was mirrored, and an interrupted population of two (five of eight epochs); resumed.json has
what the same population gave without an interruption.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from equisep import load_runs
from equisep.analysis.figures.catalogue import REPRODUCTIONS
from equisep.config import Config, ConfigError, compose_config
from equisep.data import Data
from equisep.execution import mirror_store
from equisep.execution.job import prepare
from equisep.execution.train import execute
from equisep.store import Run, all_runs, status_table
from equisep.store.readers import read_store
from tests.conftest import ROOT
from tests.store.test_readers import wait_for_logs

SMALL = ("architecture.width=8", "architecture.depth=4", "dataset.per_class=10", "training=smoke")
POPULATION = (
    "training.epochs=8",
    "training.snapshots=[0,3,8]",
    "compute.checkpoint_every=2",
    "compute.checkpoint_seconds=0",
)


@pytest.fixture
def store(tmp_path: Path, fashion: Data) -> Path:
    shutil.copytree(ROOT / "tests/miniature_store/runs", tmp_path / "runs")
    return tmp_path


def configure(store: Path, *overrides: str) -> Config:
    return compose_config([*SMALL, "tracking=off", f"results={store}", *overrides])


def interrupted(store: Path) -> list[Config]:
    return [configure(store, *POPULATION, f"seed={seed}") for seed in (6, 7)]


def test_run_ids_are_what_they_were(store: Path) -> None:
    configs = [
        *(
            configure(store, f"optimizer={optimizer}", f"seed={seed}")
            for optimizer in ("adam", "sgd")
            for seed in (1, 2)
        ),
        *(configure(store, f"seed={seed}") for seed in (3, 5)),
        configure(store, "optimizer=sgd", "optimizer.learning_rate=1e30", "architecture.batch_norm=false", "seed=4"),
        *interrupted(store),
    ]
    assert {prepare(config).run.id for config in configs} == {run.id for run in all_runs(store)}


def test_every_run_is_read_without_a_flaw(store: Path) -> None:
    table = load_runs(store)
    assert set(table["flaw"]) == {""}
    assert table.groupby("state")["run"].nunique().to_dict() == {"done": 6, "diverged": 1, "interrupted": 2}
    assert sorted(status_table(store)["state"]) == ["diverged", *["done"] * 6, *["interrupted"] * 2]
    (evaluated,) = (record for record in read_store(store) if record.robustness)
    (robustness,) = evaluated.robustness.values()
    assert [result.kind for result in robustness.results] == [
        *("clean", "weights", "weights", "one_layer", "one_layer", "one_layer", "one_layer"),
        *("input_noise", "corruptions", "fgsm", "pgd"),
    ]


def test_an_interrupted_population_is_resumed_from_its_checkpoint(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler is needed for it."""
    for name in ("why_not_native", "kernels_id"):
        monkeypatch.setattr(f"equisep.execution.train.{name}", lambda kernels: pytest.fail("a compiler was looked for"))
    outcomes = execute(interrupted(store))
    assert [(outcome.state, outcome.trained_epochs) for outcome in outcomes] == [("done", 3)] * 2
    expected = json.loads((ROOT / "tests/miniature_store/resumed.json").read_text())
    for outcome in outcomes:
        assert outcome.final is not None
        # Other processors round in another way.
        assert outcome.final.fuzziness == pytest.approx(expected[outcome.run.id]["fuzziness"], rel=1e-3)
        assert outcome.final.accuracy == pytest.approx(expected[outcome.run.id]["accuracy"], abs=0.011)


def test_a_run_is_measured_again_and_nothing_is_trained(store: Path) -> None:
    (outcome,) = execute([configure(store, "seed=1", "measure.batch_norm=running")])
    assert outcome.trained_epochs == 0
    measures = Run(store, outcome.run.id).load_measures().values()
    assert {measurement.settings["batch_norm"] for measurement in measures} == {"batch", "running"}


def test_a_figure_is_drawn_from_its_runs(store: Path) -> None:
    sweep = [*SMALL, "measures=null", "optimizer=adam,sgd", "seed=1,2", f"results={store}"]
    assert REPRODUCTIONS["optimizers"].main(sweep) == 1
    assert (store / "figures/optimizers.png").stat().st_size > 10_000
    record = json.loads((store / "verdicts/optimizers.json").read_text())
    assert (record["verdict"], list(record["verdicts"])) == ("not tested", ["paper"])
    table = pd.read_csv(store / "tables/optimizers.csv", dtype={"run": str})
    assert len(table) == 4
    final = {run.id: run.load_measures()["e04d71d8"].records for run in all_runs(store)}
    for row in table.itertuples():
        (record_of_run,) = (r for r in final[str(row.run)] if (r.epoch, r.split) == (2, "train"))
        assert row.D_last == pytest.approx(record_of_run.fuzziness[-1], rel=1e-8)


def test_the_store_is_mirrored(store: Path) -> None:
    assert mirror_store(store, configure(store, "tracking=offline").tracking) == 9
    wait_for_logs(store)
    pd.testing.assert_frame_equal(load_runs(store / "wandb"), load_runs(store), check_exact=True)


def test_a_run_of_a_later_protocol_is_refused_in_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(all_runs(store))
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("protocol: 1", "protocol: 2"))
    with pytest.raises(ConfigError, match=f"run {run.id} was recorded under protocol 2.*update equisep"):
        load_runs(store)
    assert REPRODUCTIONS["optimizers"].main([*SMALL, "seed=1", f"results={store}"]) == 2
    error = capsys.readouterr().err
    assert f"run {run.id} was recorded under protocol 2" in error
    assert len(error.splitlines()) == 1
    assert any("protocol 2" in state for state in status_table(store)["state"])
