"""SLURM's queue: this user's tasks, and whether the owner of a lock file is one of them."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from equisep.store.serialization import Submitted

# How long SLURM's answer about the owners of lock files is reused.
QUEUE_CACHE_S = 5.0


@dataclass(frozen=True)
class QueuedTask:
    """A task of SLURM's queue. id: ARRAY_INDEX, or the number of a job without index. name: of its job."""

    id: str
    name: str
    state: str


def queued_jobs() -> dict[str, QueuedTask] | None:
    """Return this user's queued and running SLURM tasks by id; None if squeue is missing or does not answer.

    A task of an array appears under both of its ids, ARRAY_INDEX and its own number.
    """
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%A|%T|%j"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    except subprocess.SubprocessError:
        return None
    jobs = {}
    for line in answer.stdout.splitlines():
        task, number, state, name = line.strip().split("|", 3)
        jobs[task] = jobs[number] = QueuedTask(task, name, state)
    return jobs


def is_queued(task: Submitted, queue: Mapping[str, QueuedTask]) -> bool:
    """Whether a task is in a queue; the name is compared because SLURM reuses ids."""
    return task.task in queue and queue[task.task].name == task.submission


@lru_cache(maxsize=1)
def recently_queued_jobs(moment: int) -> dict[str, QueuedTask] | None:
    """Return queued_jobs(), called once per moment. moment: number of the interval of QUEUE_CACHE_S seconds."""
    return queued_jobs()


def queue_knows(owner: Mapping[str, Any]) -> bool:
    """Whether an owner's job would be listed by squeue here: a job of this user on this cluster."""
    return bool(owner.get("job")) and owner.get("user") == os.getuid() and owner.get("cluster") in ("", own_cluster())


def own_job() -> tuple[str, str]:
    """Return this process's SLURM job and cluster, both '' outside SLURM."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_CLUSTER_NAME", "")


@cache
def own_cluster() -> str:
    """Return the name of the cluster that squeue reports on, asking scontrol outside a job; '' if unknown."""
    cluster = own_job()[1]
    if cluster or shutil.which("scontrol") is None:
        return cluster
    try:
        command = ["scontrol", "show", "config"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return ""
    match = re.search(r"^ClusterName\s*=\s*(\S+)", answer.stdout, flags=re.MULTILINE)
    return match.group(1) if match else ""


def own_restarts() -> int:
    """Return how often SLURM has requeued this process's job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
