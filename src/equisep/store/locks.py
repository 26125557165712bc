"""Lock files that one process at a time holds, on one machine or on several that share a file system.

A lock file names its owner and a unique token. It relies on atomic hard links (without them, on exclusive creation)
and atomic rename, which NFS has too; not on flock, and on clocks only to minutes. A living owner touches its files
from a thread. A dead owner is recognised by its process; on another host by its SLURM job, or by a file not touched
for LEASE_S. An owner that was wrongly presumed dead finds its token gone and must not write any more.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from equisep.files import retrying
from equisep.store.errors import InUse, room_for
from equisep.store.queue import QUEUE_CACHE_S, own_job, own_restarts, queue_knows, recently_queued_jobs

# An owner on another host is presumed dead after not touching its file for this long.
LEASE_S = 900.0
HEARTBEAT_S = 30.0
# Errors of link() on a file system without hard links.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The files that this process holds, and the content of each while it holds them.
_ours: dict[Path, bytes] = {}


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file for this process; raises InUse, naming ``what``, if another living process holds it."""
    content = json.dumps(_this_process() | {"token": uuid.uuid4().hex}).encode()
    for _ in range(3):
        try:
            _create(path, content)
            break
        except FileExistsError:
            owner = living_owner(path)
            if owner is not None:
                raise InUse(f"{what} is in use by {describe_owner(owner)}") from None
            _remove_stale(path)
    else:
        raise InUse(f"{what} is requested by several processes at once; run the same command again")
    _ours[path] = content
    _start_heartbeat(os.getpid())
    try:
        yield
    finally:
        del _ours[path]
        if _content(path) == content:
            path.unlink(missing_ok=True)


def confirm(path: Path, what: str) -> None:
    """Raise InUse, naming ``what``, if a file that this process held belongs to another process now or is gone.

    This happens to a process that was stopped, or cut off from the file system, for longer than LEASE_S.
    """
    ours = _ours.get(path)
    if ours is None or _content(path) == ours:
        return
    # A process that presumed this one dead may be about to restore the file.
    time.sleep(0.5)
    if _content(path) != ours:
        owner = living_owner(path)
        by = describe_owner(owner) if owner else "another process that has ended since"
        raise InUse(f"{what} was taken over by {by}: this process did not respond for too long and stops")


def describe_owner(owner: Mapping[str, Any]) -> str:
    """Return process and host of an owner, for the user."""
    return f"process {owner['process']} on {owner['host']}"


@cache
def _start_heartbeat(process: int) -> None:
    """Start the thread that touches the files held: once per process, and again in a fork, which has no threads."""
    threading.Thread(target=_heartbeat, name="heartbeat", daemon=True).start()


def _heartbeat() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        for path, content in list(_ours.items()):
            # A file that was taken over is not kept alive; the next write detects it.
            with suppress(OSError):
                if _content(path) == content:
                    os.utime(path)


def _content(path: Path) -> bytes | None:
    try:
        return retrying(path.read_bytes)
    except FileNotFoundError:
        return None


def _create(path: Path, content: bytes) -> None:
    """Create a file with its content in one step; raises FileExistsError if it exists, DiskFull."""
    part = _temporary(path)
    try:
        with room_for(path):
            part.write_bytes(content)
            _link(part, path)
    except FileExistsError:
        # NFS may report this for a link that was made, when its first answer was lost.
        if part.stat().st_nlink != 2:
            raise
    finally:
        part.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")


def _link(source: Path, target: Path) -> None:
    """Link a file to a new name, or copy it where links are not supported; raises FileExistsError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        content = source.read_bytes()
        with target.open("xb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                target.unlink()
                raise


def _remove_stale(path: Path) -> None:
    """Remove a dead owner's file; only one of several processes succeeds, and a living owner's file is restored."""
    stale = _temporary(path)
    with suppress(FileNotFoundError):
        path.replace(stale)
        if living_owner(stale) is not None:
            with suppress(FileExistsError):
                _link(stale, path)
        stale.unlink()


def living_owner(path: Path) -> dict[str, Any] | None:
    """Return the owner that a lock file names if it is alive, None otherwise.

    An owner on another host counts as alive while its SLURM job is queued or its file was touched recently.
    """
    try:
        age = time.time() - retrying(path.stat).st_mtime
        owner: dict[str, Any] = json.loads(retrying(path.read_bytes))
        if not isinstance(owner, dict) or not isinstance(owner.get("process"), int):
            raise ValueError("not an owner")
    except FileNotFoundError:
        return None
    except ValueError:
        # Being written right now (without links), or left incomplete by a crash.
        return {"host": "an unknown host", "process": 0} if age < HEARTBEAT_S else None
    here = _where()
    if {name: owner.get(name) for name in here} == here:
        return owner if owner.get("started") == _start_of(owner["process"]) else None
    if owner.get("job") and (owner["job"], owner.get("cluster")) == own_job():
        # This task ran on another host before it was requeued.
        return owner if int(owner.get("restarts") or 0) >= own_restarts() else None
    if age > 3 * HEARTBEAT_S and queue_knows(owner):
        jobs = recently_queued_jobs(int(time.monotonic() / QUEUE_CACHE_S))
        if jobs is not None:
            # The queue's answer is more reliable than a missing heartbeat.
            return owner if owner["job"] in jobs else None
    return owner if age < LEASE_S else None


def _this_process() -> dict[str, str | int]:
    job, cluster = own_job()
    process = os.getpid()
    owner: dict[str, str | int] = {"process": process, "started": _start_of(process) or ""}
    return _where() | owner | {"job": job, "cluster": cluster, "restarts": own_restarts(), "user": os.getuid()}


@cache
def _where() -> dict[str, str | int]:
    """Return what makes process numbers comparable: host, boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def _start_of(process: int) -> str | None:
    """Return the start of a process of this host in clock ticks since boot, '' where unknown, None if it is dead.

    The start distinguishes a process from a later one with the same number. A zombie counts as dead.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # Split after the name, which may contain blanks: field 3 is the state, field 22 the start.
        state, *rest = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return None if state in "ZXx" else rest[18]
