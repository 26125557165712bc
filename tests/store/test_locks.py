"""Locks between real processes: who holds a file, who is dead, and what becomes of one taken for dead."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from equisep.store import InUse, QueuedTask, held, is_queued, locks
from equisep.store.locks import confirm, living_owner
from equisep.store.run import Submitted

HOLDER = """
import sys
from pathlib import Path
from equisep.store import locks
locks.HEARTBEAT_S = 0.05
with locks.held(Path(sys.argv[1]), "it"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a file until the context ends, if it is not killed before."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "holds\n"
    try:
        yield process
    finally:
        process.communicate()


def wait_for(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.01)


def make_old(path: Path) -> None:
    os.utime(path, (time.time() - 10_000,) * 2)


def test_one_process_holds_a_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with (
        holder(path) as other,
        pytest.raises(InUse, match=f"it is in use by process {other.pid} on "),
        held(path, "it"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with held(path, "it"):
        owner = living_owner(path)
        assert owner is not None
        assert owner["process"] == os.getpid()
        with pytest.raises(InUse), held(path, "it"):
            pass
        confirm(path, "it")
    assert not list(tmp_path.iterdir())


def test_a_killed_owner_is_dead_before_it_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holder(path) as other:
        other.send_signal(signal.SIGKILL)
        stat = Path(f"/proc/{other.pid}/stat")
        wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
        assert living_owner(path) is None
        with held(path, "it"):
            assert living_owner(path) is not None
    assert not list(tmp_path.iterdir())


def test_an_owner_beats_without_being_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holder(path):
        make_old(path)
        wait_for(lambda: time.time() - path.stat().st_mtime < 1000)


def test_who_was_taken_for_dead_finds_out_and_leaves_the_others_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with held(path, "run x"):
        path.unlink()
        with pytest.raises(InUse, match=r"^run x was taken over by another process that has ended since: "):
            confirm(path, "run x")
        with holder(path) as other:
            content = path.read_bytes()
            with pytest.raises(InUse, match=f"^run x was taken over by process {other.pid} on ") as caught:
                confirm(path, "run x")
            assert "\n" not in str(caught.value)
            assert path.read_bytes() == content
    # Of what was never held nothing is said.
    confirm(path, "run x")


def test_leaving_does_not_remove_what_another_holds(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    mine = held(path, "it")
    mine.__enter__()
    path.unlink()
    with holder(path):
        mine.__exit__(None, None, None)
        assert living_owner(path) is not None


@pytest.mark.parametrize("difference", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"host": "elsewhere"}])
def test_a_number_means_nothing_on_another_host_boot_or_namespace(tmp_path: Path, difference: dict[str, str]) -> None:
    path, copy = tmp_path / "owner.json", tmp_path / "copy.json"
    with holder(path) as other:
        owner = json.loads(path.read_text())
        assert {"boot", "namespace", "host", "token"} <= owner.keys()
        other.kill()
        other.wait()
        copy.write_text(json.dumps(owner | difference))
        assert living_owner(path) is None
        assert living_owner(copy) is not None
        make_old(copy)
        assert living_owner(copy) is None
    with held(path, "it"):
        copy.write_text(json.dumps(json.loads(path.read_text()) | difference))
        make_old(copy)
        assert living_owner(copy) is None


def test_an_owner_is_never_seen_half_written(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    often = """
import sys, time
from pathlib import Path
from equisep.store import held
while True:
    with held(Path(sys.argv[1]), "it"):
        time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", often, str(path)])
    seen: set[str] = set()
    try:
        until = time.monotonic() + 60
        while len(seen) < 200:
            assert time.monotonic() < until
            with suppress(FileNotFoundError):
                seen.add(json.loads(path.read_bytes())["token"])
    finally:
        process.kill()
        process.wait()


def test_without_links_a_file_is_held_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "owner.json"
    with held(path, "it"), pytest.raises(InUse), held(path, "it"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_tasks_number_that_slurm_uses_again_is_another_task() -> None:
    submitted = Submitted("7_1", "equisep-a")
    assert is_queued(submitted, {"7_1": QueuedTask("7_1", "equisep-a", "PENDING")})
    assert not is_queued(submitted, {"7_1": QueuedTask("7_1", "equisep-b", "PENDING")})
    assert not is_queued(submitted, {"7_0": QueuedTask("7_0", "equisep-a", "PENDING")})


def test_without_links_a_living_owner_gets_its_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    path = tmp_path / "owner.json"
    with holder(path):
        before = path.read_bytes()
        monkeypatch.setattr(os, "link", no_links)
        locks._clear_away(path)
        assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == []
