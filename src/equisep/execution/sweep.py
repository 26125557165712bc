"""A sweep's jobs trained, measured and mirrored, here or elsewhere; a failure stops no other job.

The pieces of work are populations of at most ``max_members`` networks. A single one is trained in this
process, several in worker processes side by side, the longest first. On one machine and with the same
versions a network's result depends on its population alone, not on which process had it or what else ran.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from equisep.config import Config, ConfigError, SweepFailed, require_integer
from equisep.execution.device import choose_device, named_device
from equisep.execution.job import Job, prepare, split_into_populations
from equisep.execution.planning import WORK_FOR_WORKERS, operations_of, plan
from equisep.execution.progress import ConsoleObserver
from equisep.execution.train import Stopped, execute
from equisep.execution.workers import ReportEnd, Result, run_in_workers
from equisep.store import InUse, Outcome, describe_owner, exit_code

# Failed jobs that the last line of a sweep names.
FAILURES_NAMED = 5


@dataclass(frozen=True)
class Request:
    """One job of a sweep: its overrides as typed, and its config, or why it has no valid one."""

    overrides: str
    config: Config | ConfigError


Runner = Callable[[Sequence[Sequence[Job]], ReportEnd, Console], None]


@dataclass(frozen=True)
class RemoteExecutor:
    """What runs populations in place of this machine.

    gpu_memory: bytes of the GPU of each, infinite if unknown; None: what is free on this machine's.
    """

    run: Runner
    gpu_memory: float | None


def run_sweep(
    requests: Sequence[Request],
    *,
    max_members: int,
    processes: int | None,
    console: Console | None = None,
    remote: RemoteExecutor | None = None,
) -> list[Result]:
    """Train, measure and mirror what is missing of the requests; return the outcome of each, or its exception.

    A request that fails is reported at once and does not stop the others. remote: runs the populations in place of
    this machine. Raises KeyboardInterrupt after Ctrl-C, when every population has written its checkpoint.
    """
    for name, value in (("max_members", max_members), ("processes", 1 if processes is None else processes)):
        require_integer(f"hydra.launcher.{name}", value, 1)
    console = console or Console(stderr=True)
    results: dict[int, Result] = {}
    reported: set[str] = set()

    def fail(number: int, error: Exception) -> None:
        results[number] = error
        # A mistake that all jobs share is reported once, for the first of them.
        reason = f"{type(error).__name__}: {error}"
        if reason not in reported:
            reported.add(reason)
            text = f"failed: {requests[number].overrides}: {reason}"
            console.print(text, style="red", highlight=False, soft_wrap=True, markup=False)

    number_of: dict[Job, int] = {}
    for number, request in enumerate(requests):
        try:
            number_of[_prepare(request.config, remote)] = number
        except Exception as error:
            fail(number, error)
    jobs = list(number_of)
    workers = _count_workers(jobs, processes) if remote is None else 1
    gpu_memory = None if remote is None else remote.gpu_memory
    populations = plan(jobs, max_members=max_members, processes=workers, gpu_memory=gpu_memory)
    to_do = {job for population in populations for job in population}
    done = [job for job in jobs if job not in to_do]
    results |= {number_of[job]: job.outcome() for job in done}
    if done:
        console.print(f"{len(done)} of {len(requests)} runs are already done", highlight=False)

    def end(index: int, ended: Sequence[Result] | Exception) -> None:
        population = populations[index]
        results_of = [ended] * len(population) if isinstance(ended, Exception) else ended
        for job, result in zip(population, results_of, strict=True):
            # A member that was taken from the store is nobody's request.
            if job in number_of and isinstance(result, Exception):
                fail(number_of[job], result)
            elif job in number_of:
                results[number_of[job]] = result

    if remote is None:
        _run_populations(populations, end, workers, console)
    else:
        remote.run(populations, end, console)
    _report_failures(requests, results, console)
    return [results[number] for number in range(len(requests))]


def launch_sweep(requests: Sequence[Request], **how: Any) -> list[dict[str, object]]:
    """Run a sweep and return the outcome of each request as plain values; raises SweepFailed where some failed.

    how: the other arguments of :func:`run_sweep`.
    """
    results = run_sweep(requests, **how)
    if exit_code(results):
        raise SweepFailed(exit_code(results))
    return [result.facts() for result in results if isinstance(result, Outcome)]


def _report_failures(requests: Sequence[Request], results: Mapping[int, Result], console: Console) -> None:
    """Print one line on all requests that failed, where there are any."""
    failed = [request.overrides for number, request in enumerate(requests) if isinstance(results[number], Exception)]
    if failed:
        more = f"; and {len(failed) - FAILURES_NAMED} more" if len(failed) > FAILURES_NAMED else ""
        text = f"{len(failed)} of {len(requests)} jobs failed: {'; '.join(failed[:FAILURES_NAMED])}{more}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def run_one(config: Config, console: Console | None = None) -> Outcome:
    """Run a single config in this process, with a progress bar on the console; return its outcome."""
    observer = ConsoleObserver(console or Console(stderr=True))
    with observer.shown():
        try:
            (outcome,) = execute([config], observer)
        except Stopped:
            raise KeyboardInterrupt from None
    return outcome


def _prepare(config: Config | ConfigError, remote: RemoteExecutor | None) -> Job:
    """Return a request's job; raises for whatever keeps it from being run or looked up."""
    if isinstance(config, ConfigError):
        raise config
    # A device that this machine lacks may be there where the job is sent.
    device = choose_device if remote is None else named_device
    job = prepare(config, device(config.compute.device))
    split_into_populations([job])
    job.outcome()
    owner = job.run.owner() if remote is None and not job.complete else None
    if owner is not None:
        raise InUse(f"run {job.run.id} is in use by {describe_owner(owner)}")
    return job


def _count_workers(jobs: Sequence[Job], processes: int | None) -> int:
    if any(job.device.type == "cuda" for job in jobs):
        return processes or max(1, torch.cuda.device_count())
    threads = max((job.config.compute.threads for job in jobs), default=1)
    return processes or max(1, (os.cpu_count() or 1) // threads)


def _run_populations(populations: Sequence[Sequence[Job]], end: ReportEnd, workers: int, console: Console) -> None:
    """Run the populations and report the end of each as it comes."""
    if len(populations) > 1 and workers > 1 and sum(map(operations_of, populations)) > WORK_FOR_WORKERS:
        run_in_workers(populations, end, workers, console)
        return
    for index, population in enumerate(populations):
        observer = ConsoleObserver(console)
        with observer.shown():
            try:
                outcomes = execute([job.config for job in population], observer)
            except Stopped:
                raise KeyboardInterrupt from None
            except Exception as error:
                end(index, error)
            else:
                for outcome in outcomes:
                    observer.say(str(outcome))
                end(index, outcomes)
        if observer.wants_stop():
            raise KeyboardInterrupt
