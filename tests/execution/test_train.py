"""Execution of configs: finished runs cost nothing, killed runs are resumed, invalid configs are refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from equisep.config import Config, ConfigError, compose_config, run_id
from equisep.data import Data
from equisep.execution.device import set_arithmetic
from equisep.execution.progress import Observer
from equisep.execution.train import Stopped, execute
from equisep.store import DamagedRun, InUse, Run, all_runs, status_table
from equisep.store.status import final_record
from tests.conftest import run_one
from tests.processes import call, start

Configure = Callable[..., Config]
# Runs that train together in one program, as on a GPU.
BATCHED = "compute.engine=batched"


def only_run(results: Path) -> Run:
    (run,) = all_runs(results)
    return run


def test_a_run_has_all_its_records(configure: Configure, tmp_path: Path, fashion: Data) -> None:
    config = configure("training.epochs=12", "architecture.depth=8", "measure.test_epochs=null")
    outcome = run_one(config)
    run = only_run(tmp_path)
    assert (outcome.state, outcome.trained_epochs, outcome.run.id) == ("done", 12, run.id)
    assert run.id == run_id(config, fashion.train.digest)
    assert run.snapshot_epochs() == [0, 10, 12]
    assert [epoch.epoch for epoch in run.epochs()] == list(range(1, 13))
    assert run.epochs()[1].loss == pytest.approx(1.2666, abs=1e-3)
    records = run.load_measure(config.measure)
    assert [(record.epoch, record.split) for record in records] == [
        (0, "train"),
        (10, "train"),
        (12, "test"),
        (12, "train"),
    ]
    assert records[-1].fuzziness[0] == pytest.approx(36.8143, rel=1e-5)
    assert records[-1].layers[0] == "input"
    assert len(records[-1].fuzziness) == len(records[-1].rank) == 8
    assert records[-1].accuracy > records[0].accuracy
    assert outcome.final == final_record(run, config.measure, 12) == records[-1]
    state = run.state()
    assert {"processor", "torch", "commit", "threads"} <= set(state["machine"])
    assert state["seconds"] > 0
    assert not (run.path / "checkpoint.pt").exists()
    assert not list(run.path.rglob("*.part"))


def test_a_finished_run_is_only_measured_again(configure: Configure) -> None:
    first = run_one(configure())
    before = {path: path.stat().st_mtime_ns for path in first.run.path.rglob("*") if path.is_file()}
    again = run_one(configure("compute.threads=2", "training.snapshots=[0]"))
    assert (again.run.id, again.trained_epochs) == (first.run.id, 0)
    assert before == {path: path.stat().st_mtime_ns for path in first.run.path.rglob("*") if path.is_file()}
    running = run_one(configure("measure.batch_norm=running"))
    assert (running.run.id, running.trained_epochs) == (first.run.id, 0)
    assert running.final is not None
    assert first.final is not None
    assert running.final.fuzziness[1] != first.final.fuzziness[1]
    assert len(list(first.run.path.glob("measures/*.json"))) == 2


def test_the_seed_changes_the_run_but_not_the_subset(configure: Configure) -> None:
    one, other = (run_one(configure(f"seed={seed}")) for seed in (1, 2))
    assert one.final is not None
    assert other.final is not None
    assert one.final.fuzziness[0] == other.final.fuzziness[0]
    assert one.final.fuzziness[1] != other.final.fuzziness[1]


def command(results: Path, *overrides: str) -> list[str]:
    fixed = [
        f"results={results}",
        "tracking=off",
        "training=smoke",
        "training.epochs=30",
        "compute.checkpoint_every=4",
        "compute.checkpoint_seconds=0",
        "architecture.depth=4",
    ]
    return [*fixed, *overrides]


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("momentum", marks=pytest.mark.slow)])
def test_a_killed_run_is_resumed_and_ends_bit_for_bit_the_same(tmp_path: Path, optimizer: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*command(whole, f"optimizer={optimizer}")).code == 0
    process = start(*command(killed, f"optimizer={optimizer}"))
    metrics = killed / "runs" / only_run(whole).id / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 10):
        assert process.alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.signal(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    with metrics.open("a") as file:
        file.write('{"epoch": 99, "lo')
    assert only_run(killed).state()["state"] == "interrupted"
    assert status_table(killed)["state"].tolist() == ["interrupted"]
    assert call(*command(killed, f"optimizer={optimizer}")).code == 0
    expected, resumed = only_run(whole), only_run(killed)
    assert resumed.state()["state"] == "done"
    assert (expected.path / "metrics.jsonl").read_bytes() == metrics.read_bytes()
    for epoch in expected.snapshot_epochs():
        before, after = expected.load_snapshot(epoch), resumed.load_snapshot(epoch)
        assert all(torch.equal(before[name], after[name]) for name in before)
    measures = [next(run.path.glob("measures/*.json")).read_bytes() for run in (expected, resumed)]
    assert measures[0] == measures[1]


def test_a_diverging_run_is_a_result(configure: Configure, tmp_path: Path) -> None:
    outcome = run_one(configure("optimizer=sgd", "optimizer.learning_rate=1e30"))
    assert outcome.state == "diverged"
    assert status_table(tmp_path)["state"].tolist() == ["diverged"]
    assert run_one(configure("optimizer=sgd", "optimizer.learning_rate=1e30")).trained_epochs == 0


def test_a_run_in_use_by_another_process_is_refused(configure: Configure, fashion: Data, tmp_path: Path) -> None:
    config = configure()
    run = Run(tmp_path, run_id(config, fashion.train.digest))
    run.create(config, {"digest": fashion.train.digest, "test_digest": fashion.test.digest, "source": ""})
    with run.held(), pytest.raises(InUse, match=f"run {run.id} is in use by process {os.getpid()}"):
        run_one(config)
    assert run_one(config).state == "done"


@pytest.mark.parametrize(
    "owner",
    [
        {"host": socket.gethostname(), "process": 1, "started": "0", "boot": "another"},
        {"host": socket.gethostname(), "process": 2**22 + 1, "started": "0", "boot": ""},
        {"host": "elsewhere", "process": 1, "started": "0", "boot": ""},
    ],
)
def test_a_dead_owner_does_not_block_a_run(configure: Configure, tmp_path: Path, owner: dict) -> None:
    run_one(configure("training.epochs=1"))
    other = only_run(tmp_path)
    run = Run(tmp_path, "0" * 16)
    run.path.mkdir()
    (run.path / "owner.json").write_text(json.dumps(owner))
    os.utime(run.path / "owner.json", (time.time() - 10_000,) * 2)
    assert run.owner() is None
    with run.held():
        assert run.owner() is not None
    assert run.owner() is None
    assert not list(run.path.iterdir())
    assert other.owner() is None


def test_two_concurrent_processes_train_a_run_once(tmp_path: Path) -> None:
    ended = [process.wait() for process in [start(*command(tmp_path)) for _ in range(2)]]
    codes = [one.code for one in ended]
    assert 0 in codes
    if 2 in codes:
        assert "is in use by process" in ended[codes.index(2)].err
    run = only_run(tmp_path)
    assert run.state()["state"] == "done"
    assert len(run.epochs()) == 30


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("config.yaml", "remove the folder"),
        ("state.json", "remove the folder"),
        ("metrics.jsonl", "remove the folder"),
        ("measures/*.json", "remove the file"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy_and_status_shows_it(
    configure: Configure, tmp_path: Path, file: str, remedy: str
) -> None:
    run = run_one(configure()).run
    run_one(configure("seed=1"))
    (path,) = run.path.glob(file)
    path.write_text('{"a": [\n')
    with pytest.raises(DamagedRun, match=f"{path.name} is damaged .*: {remedy}"):
        run.epochs() if file == "metrics.jsonl" else run_one(configure())
    assert len(status_table(tmp_path)) == 2
    if not file.startswith("measures"):
        assert any(state.startswith("damaged: ") for state in status_table(tmp_path)["state"])


def test_a_damaged_checkpoint_or_a_lost_snapshot_is_named(configure: Configure) -> None:
    run = run_one(configure()).run
    (run.path / "checkpoint.pt").write_bytes(b"PK" * 100)
    run.write_state("interrupted")
    with pytest.raises(DamagedRun, match=r"checkpoint.pt is damaged .*: remove it"):
        run_one(configure())
    (run.path / "checkpoint.pt").unlink()
    assert run_one(configure()).trained_epochs == 2
    (run.path / "snapshots/epoch_0002.safetensors").unlink()
    with pytest.raises(DamagedRun, match="has lost its last snapshot"):
        run_one(configure())


def test_an_early_measure_is_not_the_final_one(configure: Configure) -> None:
    assert run_one(configure("measure.epochs=[0]")).final is None


def test_a_dead_network_has_no_law_and_an_overflowing_one_diverged(configure: Configure) -> None:
    dead = run_one(configure("optimizer=sgd", "optimizer.learning_rate=1", "optimizer.weight_decay=1"))
    assert dead.final is not None
    overflow = ["optimizer=sgd", "optimizer.learning_rate=1e38", "training.batch_size=1000", "training.epochs=1"]
    assert run_one(configure(*overflow)).state == "diverged"
    assert run_one(configure(*overflow)).trained_epochs == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["architecture=vgg13", "optimizer.learning_rate=1e-3"], "VGG"),
        (["measure.view=block"], "measure.view=block: .*set measure.view=layer"),
        (["training=frozen_smoke"], "training.phases: last=20: must be at most 4"),
        (
            ["training=frozen_smoke", "architecture.depth=30", "optimizer.learning_rate=1e-3"],
            "training.phases: layer 21 of 30 is not trained",
        ),
        (["robustness=standard", "measure.components=5"], "measure.components=5: .*set measure.components=null"),
    ],
)
def test_configs_that_the_network_does_not_allow_are_refused_before_training(
    configure: Configure, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run_one(configure(*overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_two_views_are_two_measures_of_one_run(configure: Configure) -> None:
    small = ["architecture=resnet_two_layer", "optimizer.learning_rate=1e-3", "measure.components=100"]
    small += ["measure.epochs=[2]", "measure.test_epochs=[]", "dataset.per_class=20"]
    blocks, layers = (run_one(configure(*small, f"measure.view={view}")) for view in ("block", "layer"))
    assert (blocks.trained_epochs, layers.trained_epochs, blocks.run.id) == (2, 0, layers.run.id)
    assert blocks.final is not None
    assert layers.final is not None
    assert blocks.final.layers == ("input", "body.0", "body.1", "body.2", "body.3")
    assert [len(outcome.fuzziness) for outcome in (blocks.final, layers.final)] == [5, 9]
    assert blocks.final.fuzziness[1:] == layers.final.fuzziness[2::2]


@pytest.mark.parametrize("override", ["measure.batch_size=99", "training.batch_size=111"])
def test_a_last_batch_of_one_image_is_refused_before_training(configure: Configure, override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override}: the last batch"):
        run_one(configure(override))


def test_a_results_folder_that_cannot_be_written_is_named(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"results={tmp_path}/file/below: "):
        run_one(configure(f"results={tmp_path}/file/below"))


def test_a_store_that_can_no_longer_be_written_is_named(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    run_one(configure("seed=1"))

    def read_only(*_: object) -> None:
        # As a mount does; permissions do not stop root.
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Run, "create", read_only)
    with pytest.raises(ConfigError, match="results=.*: Read-only file system; set a folder that can be written to"):
        run_one(configure("seed=2"))


def test_impossible_configs_are_refused_before_work(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"measure.epochs=\[1\]: .*\[0, 2\] of training.snapshots"):
        run_one(configure("measure.epochs=[1]"))
    with pytest.raises(ConfigError, match="compute.device=warp"):
        run_one(configure("compute.device=warp"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="compute.device=cuda: not on this machine"):
            run_one(configure("compute.device=cuda"))
    assert not (tmp_path / "runs").exists()


def test_a_failing_run_is_recorded_with_its_error(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Run, "append_epoch", fail)
    with pytest.raises(OSError, match="disk is full"):
        run_one(configure())
    monkeypatch.undo()
    (run,) = all_runs(Path(configure().results))
    assert run.state()["state"] == "failed"
    assert run.state()["error"] == "OSError: disk is full"
    outcome = run_one(configure())
    assert outcome.state == "done"
    assert "error" not in json.loads((run.path / "state.json").read_text())


def test_a_gpus_arithmetic_follows_the_config() -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    config = compose_config(["compute.tf32=true", "compute.deterministic=true"])
    try:
        set_arithmetic(config.compute, torch.device("cuda"))
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(False)
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]


class Interferer(Observer):
    """Calls a function once, after an epoch."""

    def __init__(self, epoch: int, interfere: Callable[[], None]) -> None:
        self.epoch, self.interfere = epoch, interfere

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        if epoch == self.epoch:
            self.interfere()


def test_a_run_that_was_taken_over_is_not_written_to(configure: Configure, tmp_path: Path) -> None:
    configs = [configure("training.epochs=9", "compute.checkpoint_every=1", BATCHED, f"seed={seed}") for seed in (1, 2)]
    contents: dict[Path, bytes] = {}

    def take_over() -> None:
        """Take the runs over, as another host does after fifteen minutes without a heartbeat."""
        for run in all_runs(tmp_path):
            (run.path / "owner.json").unlink()
            (run.path / "owner.json").write_text(json.dumps({"host": "elsewhere", "process": 7, "token": "another"}))
            contents.update({path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()})

    with pytest.raises(InUse, match=r"run [0-9a-f]{16} was taken over by process 7 on elsewhere: "):
        execute(configs, Interferer(4, take_over))
    assert {
        path: path.read_bytes() for path in tmp_path.rglob("runs/*/*") if path.is_file()
    }.items() <= contents.items()
    assert {path for run in all_runs(tmp_path) for path in run.path.rglob("*") if path.is_file()} == contents.keys()
    for run in all_runs(tmp_path):
        os.utime(run.path / "owner.json", (0, 0))
    assert [outcome.trained_epochs for outcome in execute(configs)] == [6, 6]


class StopAtCheck(Observer):
    """Requests a stop after this number of checks, counted from an epoch on."""

    def __init__(self, checks: int, epoch: int = 0) -> None:
        self.checks, self.epoch, self.current = checks, epoch, 0

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        self.current = epoch

    def wants_stop(self) -> bool:
        self.checks -= self.current >= self.epoch
        return self.checks < 0


def test_measuring_finished_runs_can_be_stopped_between_them(configure: Configure, tmp_path: Path) -> None:
    execute([configure(f"seed={seed}") for seed in (1, 2, 3)])
    configs = [configure(f"seed={seed}", "measure.batch_norm=running") for seed in (1, 2, 3)]
    with pytest.raises(Stopped):
        execute(configs, StopAtCheck(1))
    assert sorted(len(run.load_measures()) for run in all_runs(tmp_path)) == [1, 1, 2]
    assert all(outcome.trained_epochs == 0 and outcome.final for outcome in execute(configs))


@pytest.mark.parametrize("checks", [0, 1, 2])
def test_a_stop_while_a_population_is_measured_loses_nothing(configure: Configure, tmp_path: Path, checks: int) -> None:
    stores = (tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = (
        [configure("training.epochs=12", BATCHED, f"seed={seed}", f"results={store}") for seed in (1, 2)]
        for store in stores
    )
    execute(whole)
    with pytest.raises(Stopped, match="after epoch 10"):
        execute(stopped, StopAtCheck(checks, epoch=10))
    runs = list(all_runs(stores[1]))
    assert [run.snapshot_epochs() for run in runs] == [[0, 10], [0, 10]]
    # One member is measured per check before the stop.
    measured = [{record.epoch for record in run.load_measure(stopped[0].measure)} for run in runs]
    assert sorted(map(len, measured)) == sorted([1 + (member < checks) for member in range(2)])
    assert [outcome.trained_epochs for outcome in execute(stopped)] == [2, 2]
    for run in runs:
        other = Run(stores[0], run.id)
        for name in ("metrics.jsonl", "snapshots/epoch_0010.safetensors", "snapshots/epoch_0012.safetensors"):
            assert (run.path / name).read_bytes() == (other.path / name).read_bytes()
        assert run.load_measures() == other.load_measures()


def test_a_run_that_another_process_started_before_the_lock_is_resumed(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [configure("training.epochs=12", BATCHED, f"seed={seed}") for seed in (1, 2)]
    partner = configure("training.epochs=12", BATCHED, "seed=3")
    unchanged = Run.held

    def held(run: Run) -> AbstractContextManager[None]:
        monkeypatch.setattr(Run, "held", unchanged)
        with pytest.raises(Stopped):
            execute([configs[0], partner], StopAtCheck(0, epoch=5))
        return unchanged(run)

    monkeypatch.setattr(Run, "held", held)
    outcomes = execute(configs)
    assert [(outcome.state, outcome.trained_epochs) for outcome in outcomes] == [("done", 7), ("done", 12)]
    assert [run.state()["state"] for run in all_runs(tmp_path)] == ["done"] * 3


def test_a_training_from_the_start_discards_what_an_earlier_one_measured(configure: Configure, tmp_path: Path) -> None:
    """A population that lost its checkpoint starts anew; a record of its first training must not survive."""
    config = configure("training.epochs=12", "training.snapshots=[0,1,2]", "architecture.depth=4")

    class StopAfterTwo(Observer):
        left = 2

        def advance(self, epoch: int, loss: float, accuracy: float) -> None:
            self.left -= 1

        def wants_stop(self) -> bool:
            return self.left <= 0

    with pytest.raises(Stopped):
        execute([config], StopAfterTwo())
    run = only_run(tmp_path)
    (run.path / "checkpoint.pt").unlink()
    (measure,) = run.path.glob("measures/*.json")
    content = json.loads(measure.read_text())
    assert [record["epoch"] for record in content["records"]][:2] == [0, 1]
    content["records"][1]["fuzziness"][-1] = 12345.0
    measure.write_text(json.dumps(content))
    outcome = run_one(config)
    assert outcome.trained_epochs == 12
    records = run.load_measure(config.measure)
    assert [(record.epoch, record.split) for record in records if record.split == "train"] == [
        *((epoch, "train") for epoch in (0, 1, 2, 12))
    ]
    assert 12345.0 not in [value for record in records for value in record.fuzziness]


def test_the_mean_of_a_population_leaves_diverged_members_out(configure: Configure) -> None:
    configs = [
        configure("training.epochs=3", "architecture.depth=4", "optimizer=sgd", BATCHED, f"seed={seed}", *more)
        for seed, more in ((1, []), (2, ["optimizer.learning_rate=1e30"]))
    ]
    losses: list[float] = []

    class Recorder(Observer):
        def advance(self, epoch: int, loss: float, accuracy: float) -> None:
            losses.append(loss)

    assert [outcome.state for outcome in execute(configs, Recorder())] == ["done", "diverged"]
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)


def test_snapshots_that_are_gone_are_named_if_something_is_to_be_measured_on_them(configure: Configure) -> None:
    run = run_one(configure("seed=1")).run
    run.path.joinpath("snapshots/epoch_0000.safetensors").unlink()
    # What is measured stays usable.
    assert run_one(configure("seed=1")).trained_epochs == 0
    problem = r"has lost its snapshots of epochs \[0\], .* set measure.epochs=\[2\], or remove .* to train it again"
    with pytest.raises(DamagedRun, match=problem):
        run_one(configure("seed=1", "measures=[paper,evaluation]"))
    outcome = run_one(configure("seed=1", "measures=[paper,evaluation]", "measure.epochs=[2]"))
    assert len(outcome.run.load_measures()) == 2
