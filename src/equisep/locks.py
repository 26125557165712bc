"""Files that one process at a time holds, on one machine or several that share a file system; and SLURM's queue.

A lock is a file that names its owner. It relies on exclusive creation of a file and on rename being atomic, which NFS
has too, and not on flock, nor on the clocks of several machines agreeing to more than minutes. An owner that died is
found out by its process; on another host by its SLURM job, or by not having touched its file for LEASE.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# An owner on another host is taken for dead when it has not touched its file for this long, seconds.
LEASE = 900.0
BEAT = 30.0


class InUse(RuntimeError):
    """What another living process holds: a run that it trains or measures, for example."""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a file for this process; raises InUse, naming ``what``, where another living process does."""
    content = json.dumps(_this_process()).encode()
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            owner = living_owner(path)
            if owner is not None:
                raise InUse(f"{what} is in use by process {owner['process']} on {owner['host']}") from None
            _clear_away(path)
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            break
    else:
        raise InUse(f"{what} is wanted by several processes at once: try again")
    try:
        yield
    finally:
        if path.exists() and path.read_bytes() == content:
            path.unlink()


def _clear_away(path: Path) -> None:
    """Move a dead owner's file away; only one of several that find it gets to, and a living one's is put back."""
    stale = path.with_name(f".{path.stem}.{socket.gethostname()}.{os.getpid()}.part")
    with suppress(FileNotFoundError):
        path.replace(stale)
        if living_owner(stale) is not None:
            with suppress(FileExistsError):
                os.link(stale, path)
        stale.unlink()


def living_owner(path: Path) -> dict[str, Any] | None:
    """Return the process that an owner.json names, if it lives; of another host, if the file was touched of late."""
    try:
        age = time.time() - path.stat().st_mtime
        owner: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        # Just being written, or left half written by a crash.
        return {"host": "an unknown host", "process": 0} if age < BEAT else None
    if owner["host"] == socket.gethostname():
        same = _describe_process(owner["process"])
        return owner if same and same.items() <= owner.items() else None
    if owner.get("job") and (owner["job"], owner.get("cluster")) == _slurm_job():
        # This task was on another host before it was queued again.
        return owner if int(owner.get("restarts") or 0) >= _restarts() else None
    if age > 3 * BEAT and owner.get("job") and owner.get("user") == os.getuid():
        jobs = queued_jobs()
        if jobs is not None and owner.get("cluster") in ("", _slurm_job()[1]):
            # A queue that answers knows better than a silence.
            return owner if owner["job"] in jobs else None
    return owner if age < LEASE else None


def _this_process() -> dict[str, str | int]:
    description = _describe_process(os.getpid())
    assert description is not None
    job, cluster = _slurm_job()
    return description | {"job": job, "cluster": cluster, "restarts": _restarts(), "user": os.getuid()}


def _slurm_job() -> tuple[str, str]:
    """Return the SLURM job that this process is in and the cluster, both '' outside one."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_CLUSTER_NAME", "")


def _restarts() -> int:
    """Return how often SLURM has queued this process's job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _describe_process(process: int) -> dict[str, str | int] | None:
    """Return what tells a living process of this host from a later one of the same number, or None."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # Field 22: start time in clock ticks since boot; counted from behind the name, which may hold blanks.
        started = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        started = boot = ""
    facts: dict[str, str | int] = {"process": process, "started": started, "boot": boot}
    return {"host": socket.gethostname()} | facts


def queued_jobs() -> dict[str, str] | None:
    """Return the state of every SLURM job of this user that is queued or runs, by id; None where squeue does not say.

    A task of an array goes by both its names, ARRAY_TASK and its own number.
    """
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%A|%T"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode:
        return None
    jobs = {}
    for line in answer.stdout.splitlines():
        name, number, state = line.strip().split("|")
        jobs[name] = jobs[number] = state
    return jobs
