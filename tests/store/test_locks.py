"""Locks between real processes: living owners, dead owners, and owners wrongly presumed dead."""

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
with locks.held(Path(sys.argv[1]), "lock"):
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
        pytest.raises(InUse, match=f"lock is in use by process {other.pid} on "),
        held(path, "lock"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with held(path, "lock"):
        owner = living_owner(path)
        assert owner is not None
        assert owner["process"] == os.getpid()
        with pytest.raises(InUse), held(path, "lock"):
            pass
        confirm(path, "lock")
    assert not list(tmp_path.iterdir())


def test_a_killed_owner_is_recognised_before_its_parent_reaps_it(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holder(path) as other:
        other.send_signal(signal.SIGKILL)
        stat = Path(f"/proc/{other.pid}/stat")
        wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
        assert living_owner(path) is None
        with held(path, "lock"):
            assert living_owner(path) is not None
    assert not list(tmp_path.iterdir())


def test_an_owner_touches_its_file_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holder(path):
        make_old(path)
        wait_for(lambda: time.time() - path.stat().st_mtime < 1000)


def test_an_owner_presumed_dead_finds_out_and_leaves_the_new_owners_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with held(path, "run x"):
        path.unlink()
        with pytest.raises(InUse, match="^run x was taken over by another process"):
            confirm(path, "run x")
        with holder(path) as other:
            content = path.read_bytes()
            with pytest.raises(InUse, match=f"^run x was taken over by process {other.pid} on ") as caught:
                confirm(path, "run x")
            assert "\n" not in str(caught.value)
            assert path.read_bytes() == content
    # A file that was never held is not reported.
    confirm(path, "run x")


def test_release_does_not_remove_another_processs_file(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    own = held(path, "lock")
    own.__enter__()
    path.unlink()
    with holder(path):
        own.__exit__(None, None, None)
        assert living_owner(path) is not None


@pytest.mark.parametrize("difference", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"host": "elsewhere"}])
def test_process_numbers_are_not_compared_across_hosts_boots_or_namespaces(
    tmp_path: Path, difference: dict[str, str]
) -> None:
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
    with held(path, "lock"):
        copy.write_text(json.dumps(json.loads(path.read_text()) | difference))
        make_old(copy)
        assert living_owner(copy) is None


def test_a_lock_file_is_never_read_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    script = """
import sys, time
from pathlib import Path
from equisep.store import held
while True:
    with held(Path(sys.argv[1]), "lock"):
        time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    tokens: set[str] = set()
    try:
        until = time.monotonic() + 60
        while len(tokens) < 200:
            assert time.monotonic() < until
            with suppress(FileNotFoundError):
                tokens.add(json.loads(path.read_bytes())["token"])
    finally:
        process.kill()
        process.wait()


def test_a_file_can_be_held_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "owner.json"
    with held(path, "lock"), pytest.raises(InUse), held(path, "lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_reused_slurm_id_is_another_task() -> None:
    submitted = Submitted("7_1", "equisep-a")
    assert is_queued(submitted, {"7_1": QueuedTask("7_1", "equisep-a", "PENDING")})
    assert not is_queued(submitted, {"7_1": QueuedTask("7_1", "equisep-b", "PENDING")})
    assert not is_queued(submitted, {"7_0": QueuedTask("7_0", "equisep-a", "PENDING")})


def test_a_living_owners_file_is_restored_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    path = tmp_path / "owner.json"
    with holder(path):
        before = path.read_bytes()
        monkeypatch.setattr(os, "link", no_links)
        locks._remove_stale(path)
        assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", '{"process": "7"}'])
def test_a_lock_file_that_names_no_process_is_stale_after_a_heartbeat(content: str, tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    path.write_text(content)
    assert living_owner(path) is not None
    long_ago = time.time() - locks.HEARTBEAT_S - 1
    os.utime(path, (long_ago, long_ago))
    assert living_owner(path) is None
    with held(path, "it"):
        assert living_owner(path) is not None
