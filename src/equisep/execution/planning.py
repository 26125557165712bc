"""The units of work of a sweep: a run that trains alone, or a population of unfinished runs of equal shape."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence

import torch

from equisep.execution.job import Job, split_into_populations

# Floating-point operations, about 20 s of training, from which worker processes pay; each takes 6 s to start.
MIN_OPERATIONS_FOR_WORKERS = 9e11
# Share of a GPU's free memory that a population may use; the rest is for the data and the kernels' buffers.
MEMORY_SHARE = 0.7


def plan(
    jobs: Sequence[Job],
    *,
    max_members: int,
    processes: int,
    gpu_memory: float | None = None,
    alone: Callable[[Job], bool] = lambda job: False,
) -> list[list[Job]]:
    """Return the unfinished jobs as units of work, the longest first.

    Interrupted populations stay as they were. The other jobs are grouped by what a population must share and split
    evenly into pieces of at most max_members, or into more pieces if processes would be idle. Networks that do not
    train faster together, and those for which ``alone`` is true, are units of their own. Each unit's jobs are followed
    by further jobs for the same runs, with another measure. gpu_memory: see :func:`members_that_fit`.
    """
    incomplete = [job for job in jobs if not job.complete]
    unfinished = list({job.run.path: job for job in reversed(incomplete)}.values())[::-1]
    populations, fresh = split_into_populations(unfinished)
    groups: dict[str, list[Job]] = {}
    for job in fresh:
        groups.setdefault(job.population_key, []).append(job)
    work = sum(operations_of([job]) for job in unfinished)
    idle = len(populations) + len(groups) < processes and work > MIN_OPERATIONS_FOR_WORKERS
    for group in groups.values():
        # Members with equal optimizers are adjacent, so that one update serves them all.
        group.sort(key=lambda job: job.optimizer_key)
        together = group[0].gains_from_batching and not alone(group[0])
        members = min(max_members, members_that_fit(group[0], gpu_memory)) if together else 1
        pieces = max(-(-len(group) // members), min(len(group), processes) if idle else 1)
        bounds = [round(piece * len(group) / pieces) for piece in range(pieces + 1)]
        populations += [group[start:end] for start, end in itertools.pairwise(bounds)]
    populations.sort(key=operations_of, reverse=True)
    others = set(incomplete) - set(unfinished)
    for population in populations:
        paths = {job.run.path for job in population}
        population += [job for job in incomplete if job in others and job.run.path in paths]
    return populations


def members_that_fit(job: Job, gpu_memory: float | None = None) -> int:
    """Return how many networks like a job's fit into the memory of its GPU, at least one; any number on a CPU.

    gpu_memory: bytes; None for the free memory of this machine's GPU, if the job uses it.
    """
    if job.config.compute.device == "cpu":
        return sys.maxsize
    if gpu_memory is None:
        gpu_memory = torch.cuda.mem_get_info(job.device)[0] if job.device.type == "cuda" else math.inf
    # The memory of a job takes two seconds to estimate: torch imports its compiler for a run on the meta device.
    if gpu_memory == math.inf:
        return sys.maxsize
    return int(max(1, min(sys.maxsize, MEMORY_SHARE * gpu_memory / job.memory)))


def operations_of(population: Sequence[Job]) -> float:
    """Return the floating-point operations of training a population."""
    return sum(job.operations for job in population)
