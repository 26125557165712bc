"""A real file system that is full: every write fails in one line, nothing is lost, and the same command resumes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.kills import own_wandb_service
from equisep.config import Config, compose_config
from equisep.data import Data
from equisep.execution.train import execute
from equisep.files import append, write_atomically
from equisep.measures import Epoch
from equisep.store import DiskFull, Run, Submitted, all_runs, exit_code, load_runs
from equisep.store.readers import read_logs
from equisep.store.sweeps import planned_runs
from tests.conftest import Ended
from tests.processes import call
from tests.store.test_readers import wait_for_logs

REMEDY = "no space left; make room and run the same command again to resume"


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of four megabytes in memory."""
    folder = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("a file system can be mounted by root alone" + (f": {done.stderr.strip()}" if done else ""))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(mounted: Path) -> Iterator[Path]:
    """The small file system, empty."""
    yield mounted
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path) -> None:
    """Write a file until no byte is left."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    assert os.statvfs(disk).f_bavail == 0


def make_room(disk: Path) -> None:
    (disk / "filler").unlink()


def configure(results: Path, *overrides: str) -> Config:
    short = ("training=smoke", "training.epochs=6", "training.snapshots=[0,2,4]")
    short += ("compute.checkpoint_every=2", "compute.checkpoint_seconds=0")
    fixed = ("architecture.depth=4", "architecture.width=20", "measure.test_epochs=[]", "compute.compile=never")
    return compose_config([*short, *fixed, "tracking=off", f"results={results}", *overrides])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, fashion: Data) -> Run:
    (outcome,) = execute([configure(tmp_path_factory.mktemp("whole"))])
    return outcome.run


def results_of(run: Run) -> dict[str, bytes]:
    patterns = ("metrics.jsonl", "snapshots/*", "measures/*")
    return {
        str(path.relative_to(run.path)): path.read_bytes() for pattern in patterns for path in run.path.glob(pattern)
    }


def unfinished(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.suffix == ".part" or path.name == "owner.json"]


# The writer at whose n-th call the disk is full, and the file that it writes.
WRITES = [
    ("create", 1, "runs/"),
    ("write_state", 1, "state.json"),
    ("log", 1, "run.log"),
    ("append_epoch", 1, "metrics.jsonl"),
    ("save_snapshot", 2, "snapshots/epoch_0002.safetensors"),
    ("save_checkpoint", 2, "checkpoint.pt"),
    ("save_measure", 2, "measures/"),
    ("save_epochs", 2, "metrics.jsonl"),
    ("write_state", 2, "state.json"),
]


@pytest.mark.parametrize(("writer", "call", "file"), WRITES)
def test_a_full_disk_at_any_write_is_one_line_and_the_same_command_resumes(
    disk: Path, whole: Run, monkeypatch: pytest.MonkeyPatch, writer: str, call: int, file: str
) -> None:
    calls = 0
    unchanged = getattr(Run, writer)

    def write(run: Run, *arguments: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            fill(disk)
        unchanged(run, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Run, writer, write)
        with pytest.raises(DiskFull) as caught:
            execute([configure(disk)])
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)
    assert str(caught.value).endswith(REMEDY)
    assert exit_code([caught.value]) == 2
    assert unfinished(disk) == []
    # What was recorded can be read, on the full disk too.
    recorded = [epoch.epoch for run in all_runs(disk) for epoch in run.epochs()]
    assert recorded == list(range(1, len(recorded) + 1))
    # Without room, it fails again and loses nothing.
    before = [results_of(run) for run in all_runs(disk)]
    with pytest.raises(DiskFull):
        execute([configure(disk)])
    if writer not in ("create", "save_epochs") and len(recorded) > 2:
        (kept,) = before
        assert {name for name in kept if "0000" in name} <= results_of(next(all_runs(disk))).keys()
    assert unfinished(disk) == []
    make_room(disk)
    (outcome,) = execute([configure(disk)])
    assert outcome.state == "done"
    assert results_of(outcome.run) == results_of(whole)
    assert not list(outcome.run.path.glob("checkpoint*"))
    assert (outcome.trained_epochs < 6) == ((outcome.run.path / "run.log").read_text().count("resumed") > 0)


def test_locks_submissions_and_lists_of_sweeps(disk: Path) -> None:
    run = Run(disk, "0" * 16)
    run.path.mkdir(parents=True)
    fill(disk)
    with pytest.raises(DiskFull, match=f"owner.json: {REMEDY}"), run.held():
        pass
    with pytest.raises(DiskFull, match=f"submitted.json: {REMEDY}"):
        run.mark_submitted(Submitted("1", "equisep"))
    with pytest.raises(DiskFull, match=f"runs.json: {REMEDY}"), planned_runs(disk, {"0" * 16: {"seed": 1}}):
        pass
    assert unfinished(disk) == []
    assert list(disk.glob("sweeps/*")) == []


def test_the_command_says_it_in_one_line_with_exit_code_2(
    disk: Path, equisep: Callable[..., Ended], fashion: Data
) -> None:
    fill(disk)
    ended = equisep("training=smoke", "tracking=off", f"results={disk}")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(f"equisep: {disk}")
    assert ended.err.splitlines()[-1].endswith(REMEDY)
    assert "Traceback" not in ended.err


def test_a_line_that_does_not_fit_is_taken_back(disk: Path) -> None:
    run = Run(disk, "0" * 16)
    run.path.mkdir(parents=True)
    epochs = [Epoch(number, 0.1, 0.2, 0.3) for number in range(1, 60)]
    run.save_epochs(epochs[:1])
    fill(disk)
    # There is room up to the end of a block.
    with pytest.raises(DiskFull, match=f"metrics.jsonl: {REMEDY}"):
        list(map(run.append_epoch, epochs[1:]))
    content = (run.path / "metrics.jsonl").read_bytes()
    assert content.endswith(b"}\n")
    written = len(run.epochs())
    assert 1 < written < len(epochs)
    make_room(disk)
    run.append_epoch(epochs[written])
    assert run.epochs() == epochs[: written + 1]


def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    run = Run(tmp_path, "0" * 16)
    run.path.mkdir(parents=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"state.json: no space left \(File too large\); make room"):
            run.write_state("running", machine={"name": "x" * 2000})
        with pytest.raises(OSError, match="File too large"):
            append(tmp_path / "log", b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(run.path) == []
    assert (tmp_path / "log").read_bytes() == b""
    write_atomically(tmp_path / "log", b"room")


def test_wandb_on_a_full_disk_does_not_stop_training_and_can_be_written_again(
    disk: Path, tmp_path: Path, whole: Run
) -> None:
    """The store has room, wandb's folder has none."""
    (disk / "wandb").mkdir()
    (tmp_path / "wandb").symlink_to(disk / "wandb")
    config = configure(tmp_path, "tracking=offline")
    fill(disk)
    with pytest.warns(UserWarning, match=r"wandb stopped .*No space left.*run `equisep mirror`"):
        (outcome,) = execute([config])
    assert outcome.state == "done"
    assert results_of(outcome.run) == results_of(whole)
    make_room(disk)
    # In another process: wandb's service keeps a run whose log it could not write.
    assert call("mirror", "tracking=offline", f"results={tmp_path}", environment=own_wandb_service()).code == 0
    wait_for_logs(tmp_path)
    (logged,) = read_logs(tmp_path / "wandb")
    assert not logged.flaw
    assert load_runs(tmp_path / "wandb").equals(load_runs(tmp_path))
