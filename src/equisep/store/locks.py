"""Files that one process at a time holds, on one machine or several that share a file system; and SLURM's queue.

A lock is a file that names its owner and a token that no other holding has. It relies on hard links (where a file
system has none, on exclusive creation) and on rename being atomic, which NFS has too, and not on flock, nor on the
clocks of several machines agreeing to more than minutes. As long as a process lives, a thread of it touches what it
holds. An owner that died is found out by its process; on another host by its SLURM job, or by not having touched its
file for LEASE_S. One that was only taken for dead finds its token gone, and is to write no more.
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

from equisep.config import EquisepError
from equisep.files import retrying
from equisep.store.queue import QUEUE_CACHE_S, own_job, own_restarts, queue_knows, recently_queued_jobs

# An owner on another host is taken for dead when it has not touched its file for this long, seconds.
LEASE_S = 900.0
HEARTBEAT_S = 30.0
# What link() says on a file system without hard links.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# What this process holds: the content that each file has for as long as it is ours.
_ours: dict[Path, bytes] = {}


class InUse(EquisepError):
    """What another living process holds: a run that it trains or measures, for example."""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a file for this process; raises InUse, naming ``what``, where another living process does."""
    content = json.dumps(_this_process() | {"token": uuid.uuid4().hex}).encode()
    for _ in range(3):
        try:
            _create(path, content)
            break
        except FileExistsError:
            owner = living_owner(path)
            if owner is not None:
                raise InUse(f"{what} is in use by {describe_owner(owner)}") from None
            _clear_away(path)
    else:
        raise InUse(f"{what} is wanted by several processes at once: try again")
    _ours[path] = content
    _start_heartbeat(os.getpid())
    try:
        yield
    finally:
        del _ours[path]
        if _content(path) == content:
            path.unlink(missing_ok=True)


def confirm(path: Path, what: str) -> None:
    """Raise InUse, naming ``what``, where a file that this process holds has become another's or is gone.

    That happens to a process that was stopped, or cut off from the file system, for longer than LEASE_S.
    """
    ours = _ours.get(path)
    if ours is None or _content(path) == ours:
        return
    # Another that took it for dead may be about to put it back.
    time.sleep(0.5)
    if _content(path) != ours:
        owner = living_owner(path)
        by = describe_owner(owner) if owner else "another process that has ended since"
        raise InUse(f"{what} was taken over by {by}: this process was silent for too long, and stops")


def describe_owner(owner: Mapping[str, Any]) -> str:
    """Return what a person finds an owner by."""
    return f"process {owner['process']} on {owner['host']}"


@cache
def _start_heartbeat(process: int) -> None:
    """Start the thread that touches what this process holds; once, and again in a fork, which has no threads."""
    threading.Thread(target=_heartbeat, name="beat", daemon=True).start()


def _heartbeat() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        for path, content in list(_ours.items()):
            # What is another's by now is not kept alive; the next write finds out.
            with suppress(OSError):
                if _content(path) == content:
                    os.utime(path)


def _content(path: Path) -> bytes | None:
    try:
        return retrying(path.read_bytes)
    except FileNotFoundError:
        return None


def _create(path: Path, content: bytes) -> None:
    """Make a file with its content in one step; raises FileExistsError where there is one."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        try:
            os.link(part, path)
        except FileExistsError:
            # NFS may answer a link that was made with this when the first answer was lost.
            if part.stat().st_nlink != 2:
                raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with path.open("xb") as file:
                file.write(content)
    finally:
        part.unlink(missing_ok=True)


def _clear_away(path: Path) -> None:
    """Move a dead owner's file away; only one of several that find it gets to, and a living one's is put back."""
    stale = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
    with suppress(FileNotFoundError):
        path.replace(stale)
        if living_owner(stale) is not None:
            _put_back(stale, path)
        stale.unlink()


def _put_back(stale: Path, path: Path) -> None:
    """Give a living owner its file again, unless another has taken its place meanwhile."""
    with suppress(FileExistsError):
        try:
            os.link(stale, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with path.open("xb") as file:
                file.write(stale.read_bytes())


def living_owner(path: Path) -> dict[str, Any] | None:
    """Return the process that an owner.json names, if it lives; of another host, if the file was touched of late."""
    try:
        age = time.time() - retrying(path.stat).st_mtime
        owner: dict[str, Any] = json.loads(retrying(path.read_bytes))
    except FileNotFoundError:
        return None
    except ValueError:
        # Just being written, where there are no links, or left half written by a crash.
        return {"host": "an unknown host", "process": 0} if age < HEARTBEAT_S else None
    here = _where()
    if {name: owner.get(name) for name in here} == here:
        return owner if owner.get("started") == _start_of(owner["process"]) else None
    if owner.get("job") and (owner["job"], owner.get("cluster")) == own_job():
        # This task was on another host before it was queued again.
        return owner if int(owner.get("restarts") or 0) >= own_restarts() else None
    if age > 3 * HEARTBEAT_S and queue_knows(owner):
        jobs = recently_queued_jobs(int(time.monotonic() / QUEUE_CACHE_S))
        if jobs is not None:
            # A queue that answers knows better than a silence.
            return owner if owner["job"] in jobs else None
    return owner if age < LEASE_S else None


def _this_process() -> dict[str, str | int]:
    job, cluster = own_job()
    me = os.getpid()
    facts: dict[str, str | int] = {"process": me, "started": _start_of(me) or ""}
    return _where() | facts | {"job": job, "cluster": cluster, "restarts": own_restarts(), "user": os.getuid()}


@cache
def _where() -> dict[str, str | int]:
    """Return where the number of a process means the same process as here: host, boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def _start_of(process: int) -> str | None:
    """Return what tells a living process of this host from a later one of its number, None where there is none.

    That is its start in clock ticks since boot, '' where the system does not say. A zombie does not live.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # Counted from behind the name, which may hold blanks: field 3 is the state, field 22 the start.
        state, *rest = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return None if state in "ZXx" else rest[18]
