"""What SLURM's queue says: this user's tasks, and whether an owner of a file is one of them."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from equisep.store.serialization import Submitted

# Seconds for which SLURM's answer about the owners of files is good enough.
QUEUE_CACHE_S = 5.0


@dataclass(frozen=True)
class QueuedTask:
    """A task of SLURM's queue. id: ARRAY_INDEX, or the number of a job without index; name: of its job; state."""

    id: str
    name: str
    state: str


def queued_jobs() -> dict[str, QueuedTask] | None:
    """Return every SLURM task of this user that is queued or runs, by id; None where squeue does not say.

    A task of an array goes by both its names, ARRAY_INDEX and its own number.
    """
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%A|%T|%j"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode:
        return None
    jobs = {}
    for line in answer.stdout.splitlines():
        task, number, state, name = line.strip().split("|", 3)
        jobs[task] = jobs[number] = QueuedTask(task, name, state)
    return jobs


def is_queued(task: Submitted, queue: Mapping[str, QueuedTask]) -> bool:
    """Whether a queue has a task; SLURM may have used its id again for another."""
    return task.task in queue and queue[task.task].name == task.submission


@lru_cache(maxsize=1)
def recently_queued_jobs(moment: int) -> dict[str, QueuedTask] | None:
    """Return queued_jobs() as of a moment of QUEUE_CACHE_S seconds, in which it is asked once."""
    return queued_jobs()


def queue_knows(owner: Mapping[str, Any]) -> bool:
    """Whether the queue that is asked here would name an owner's job: one of this user's, on this cluster."""
    return bool(owner.get("job")) and owner.get("user") == os.getuid() and owner.get("cluster") in ("", own_cluster())


def own_job() -> tuple[str, str]:
    """Return the SLURM job that this process is in and the cluster, both '' outside one."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_CLUSTER_NAME", "")


@cache
def own_cluster() -> str:
    """Return the cluster that squeue speaks of, which outside a job SLURM has to be asked for; '' where none says."""
    inside = own_job()[1]
    if inside or shutil.which("scontrol") is None:
        return inside
    try:
        command = ["scontrol", "show", "config"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return ""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, flags=re.MULTILINE)
    return found.group(1) if found else ""


def own_restarts() -> int:
    """Return how often SLURM has queued this process's job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
