"""Files that were cut or in which a bit has flipped: found, named with a remedy, and the checkpoint before is used."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from equisep.config import Config
from equisep.execution.progress import Observer
from equisep.execution.train import Stopped, execute
from equisep.measures import Epoch
from equisep.store import DamagedRun, Run, all_runs, read_store
from equisep.store.checksums import open_lines, seal_line
from equisep.store.errors import InUse
from tests.conftest import run_one

Configure = Callable[..., Config]
CPU = torch.device("cpu")
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


class StopAfter(Observer):
    """Requests a stop after this number of epochs, and keeps what is said."""

    def __init__(self, epochs: int) -> None:
        self.left, self.said = epochs, list[str]()

    def say(self, line: str) -> None:
        self.said.append(line)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        self.left -= 1

    def wants_stop(self) -> bool:
        return self.left <= 0


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A store with one run that has every kind of file; tests copy it."""
    store = tmp_path_factory.mktemp("stored")
    shutil.copytree(trained / "runs", store / "runs")
    run, *others = all_runs(store)
    for other in others:
        shutil.rmtree(other.path)
    shutil.copytree(Path(__file__).parents[1] / "miniature_store/runs/3ff559b2cc4e094b/robustness", run.path / "robus")
    (evaluation,) = (run.path / "robus").iterdir()
    (run.path / "robus").rename(run.path / "robustness")
    for identity, robustness in run.load_robustness().items():
        run.save_robustness(identity, robustness)
    assert (run.path / "robustness" / evaluation.name).exists()
    for epoch in (1, 2):
        run.save_checkpoint({"epoch": torch.tensor([float(epoch)])})
    return store


def read_record(run: Run) -> None:
    """Read a run as tables and figures do."""
    (record,) = read_store(run.path.parents[1])
    if record.flaw:
        raise DamagedRun(record.flaw)


def read_newest_checkpoint(run: Run) -> None:
    said: list[str] = []
    run.load_checkpoint(CPU, said.append)
    if said:
        raise DamagedRun(said[0])


READERS: dict[str, Callable[[Run], object]] = {
    "config.yaml": Run.config,
    "state.json": Run.state,
    "metrics.jsonl": read_record,
    "measures/*.json": Run.load_measures,
    "robustness/*.json": Run.load_robustness,
    "snapshots/*2.safetensors": lambda run: run.load_snapshot(2),
    CHECKPOINT: read_newest_checkpoint,
}


@pytest.mark.parametrize("pattern", READERS)
def test_a_flipped_bit_and_a_cut_are_found(stored: Path, tmp_path: Path, pattern: str) -> None:
    shutil.copytree(stored / "runs", tmp_path / "runs")
    (run,) = all_runs(tmp_path)
    read = READERS[pattern]
    read(run)
    (path,) = run.path.glob(pattern)
    content = path.read_bytes()
    # The bits of the checksum and what is around it, and some of the others.
    rng = random.Random(1)
    ends = range(40) if path.stat().st_size > 1000 else range(len(content))
    flips = {(byte, rng.randrange(8)) for byte in (*ends, *(len(content) - 1 - byte for byte in ends))}
    flips |= {(rng.randrange(len(content)), rng.randrange(8)) for _ in range(60)}
    damaged = [
        (f"bit {bit} of byte {byte}", content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :])
        for byte, bit in sorted(flips)
    ]
    lengths = {0, 1, 5, 20, len(content) // 2, len(content) - 2, *(rng.randrange(len(content)) for _ in range(10))}
    damaged += [(f"cut to {length} bytes", content[:length]) for length in sorted(lengths)]
    for what, changed in damaged:
        path.write_bytes(changed)
        try:
            read(run)
        except DamagedRun as error:
            # A finished run whose epochs are fewer than its state says is named by its record.
            assert path.name in str(error) or "epochs" in str(error), what  # noqa: PT017
        else:
            pytest.fail(f"{path.name}: {what} is not found")
    path.write_bytes(content)
    read(run)


def test_files_stay_readable_by_others_and_without_a_checksum(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored / "runs", tmp_path / "runs")
    (run,) = all_runs(tmp_path)
    config, state = run.config(), run.state()
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config
    assert json.loads((run.path / "state.json").read_text()) | {"sha256": ""} == state | {"sha256": ""}
    assert not {"sha256", "check"} & {*config, *state}
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"epoch", "loss", "accuracy", "learning_rate", "check"}] * 2
    # As version 0.1 wrote them.
    epochs, measures = run.epochs(), run.load_measures()
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (run.path / "state.json").write_text(json.dumps(state))
    (run.path / "metrics.jsonl").write_text(open_lines((run.path / "metrics.jsonl").read_bytes()) + "\n")
    for path in run.path.glob("measures/*.json"):
        content = json.loads(path.read_text())
        del content["sha256"]
        path.write_text(json.dumps(content))
    assert (run.config(), run.state(), run.epochs(), run.load_measures()) == (config, state, epochs, measures)


def test_every_line_has_the_checksum_of_the_file_up_to_there(tmp_path: Path) -> None:
    run = Run(tmp_path, "0" * 16)
    run.path.mkdir(parents=True)
    epochs = [Epoch(number, 0.5, 0.5, 0.1) for number in range(1, 5)]
    run.save_epochs(epochs[:2])
    run.append_epoch(epochs[2])
    # Another process, or another object, continues the file.
    Run(tmp_path, run.id).append_epoch(epochs[3])
    appended = (run.path / "metrics.jsonl").read_bytes()
    assert run.epochs() == epochs
    run.save_epochs(epochs)
    assert (run.path / "metrics.jsonl").read_bytes() == appended
    # The last line, as a killed process leaves it.
    (run.path / "metrics.jsonl").write_bytes(appended[:-9])
    assert run.epochs() == epochs[:3]
    assert open_lines(seal_line('{"a": 1}', 0)[0]) == '{"a": 1}'


def stop_after_two_checkpoints(configure: Configure, *more: str) -> tuple[Config, Run]:
    """Train past two checkpoints, of epochs 4 and 7, and measure a snapshot of epoch 5 in between."""
    config = configure("training.epochs=9", "training.snapshots=[0,3,5]", "compute.checkpoint_every=4", *more)
    with pytest.raises(Stopped):
        execute([config], StopAfter(7))
    (run,) = all_runs(Path(config.results))
    assert (run.path / PREVIOUS).exists()
    return config, run


def contents(run: Run) -> dict[str, bytes]:
    patterns = ("metrics.jsonl", "snapshots/*", "measures/*")
    return {
        str(path.relative_to(run.path)): path.read_bytes() for pattern in patterns for path in run.path.glob(pattern)
    }


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_the_checkpoint_before_is_used_and_the_run_ends_bit_for_bit_the_same(
    configure: Configure, tmp_path: Path, damage: str
) -> None:
    whole = run_one(configure("training.epochs=9", "training.snapshots=[0,3,5]", f"results={tmp_path}/whole")).run
    config, run = stop_after_two_checkpoints(configure, f"results={tmp_path}/damaged")
    path = run.path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "missing":
        # A process was killed between the two renamings.
        path.unlink()
    observer = StopAfter(100)
    (outcome,) = execute([config], observer)
    assert outcome.trained_epochs == 5
    assert contents(run) == contents(whole)
    log = (run.path / "run.log").read_text()
    if damage != "missing":
        line = f"{path} is damaged (its checksum is not that of its content): resuming from the checkpoint before"
        assert line in observer.said
        assert line in log
    assert "resumed after epoch 4" in log
    assert not list(run.path.glob("checkpoint*"))


def test_two_damaged_checkpoints_are_named_and_a_damaged_one_never_replaces_a_whole_one(configure: Configure) -> None:
    config, run = stop_after_two_checkpoints(configure)
    whole = (run.path / PREVIOUS).read_bytes()
    (run.path / CHECKPOINT).write_bytes(b"PK" * 100)
    resumed = Run(Path(config.results), run.id)
    checkpoint = resumed.load_checkpoint(CPU)
    assert checkpoint is not None
    resumed.save_checkpoint(checkpoint)
    assert (run.path / PREVIOUS).read_bytes() == whole
    resumed.save_checkpoint(checkpoint)
    assert (run.path / PREVIOUS).read_bytes() == (run.path / CHECKPOINT).read_bytes()
    for name in (CHECKPOINT, PREVIOUS):
        (run.path / name).write_bytes(b"")
    with pytest.raises(DamagedRun, match=rf"/checkpoint\.pt is damaged .*: remove it and {PREVIOUS} to train the run"):
        run_one(config)
    for name in (CHECKPOINT, PREVIOUS):
        (run.path / name).unlink()
    assert run_one(config).trained_epochs == 9


def test_results_after_the_checkpoint_are_written_again(configure: Configure) -> None:
    """What a damaged checkpoint takes back is not mixed with results of the epochs after it."""
    config, run = stop_after_two_checkpoints(configure)
    (measure,) = run.load_measures()
    run.discard_results_after(3)
    assert run.snapshot_epochs() == [0, 3]
    assert [record.epoch for record in run.load_measures()[measure].records] == [0, 3]
    (run.path / CHECKPOINT).unlink()
    assert run_one(config).trained_epochs == 5
    assert run.snapshot_epochs() == [0, 3, 5, 9]


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    run = Run(tmp_path, "0" * 16)
    (run.path / "snapshots").mkdir(parents=True)
    left = run.path / "snapshots" / f".epoch_0001.safetensors.{'0' * 32}.part"
    others = run.path / f".submitted.json.{'0' * 32}.part"
    lock = run.path / f".owner.{'0' * 32}.part"
    with run.held():
        owner = json.loads((run.path / "owner.json").read_bytes())
    for path in (left, others):
        path.touch()
    lock.write_text(json.dumps(owner | {"started": "0"}))
    with run.held():
        assert not left.exists()
        assert not lock.exists()
        assert others.exists()
        with pytest.raises(InUse), run.held():
            pass
