"""A sweep's jobs trained, measured and mirrored, on this machine or by a remote executor; failures do not stop others.

The units of work are single runs, where the native engine or a convolutional network trains them, and populations of at
most ``max_members`` networks. A little work is done in this process, more in parallel worker processes, the longest
first. On one machine with the same versions, a native run's result depends on the run alone, another's only on its
population; not on the process or on what else was running.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from equisep.config import Config, ConfigError, EquisepError, require_integer, to_plain
from equisep.execution.device import choose_device, named_device
from equisep.execution.job import Job, prepare, split_into_populations
from equisep.execution.planning import MIN_OPERATIONS_FOR_WORKERS, operations_of, plan
from equisep.execution.progress import ConsoleObserver, print_line
from equisep.execution.train import Stopped, execute, is_native
from equisep.execution.workers import ReportEnd, Result, run_in_turn, run_in_workers
from equisep.store import InUse, Outcome, describe_owner, exit_code, planned_runs

# Number of failed jobs that the last line of a sweep names.
FAILURES_NAMED = 5


@dataclass(frozen=True)
class Request:
    """One job of a sweep. overrides: as typed. config: or the error that makes it invalid."""

    overrides: str
    config: Config | ConfigError


Runner = Callable[[Sequence[Sequence[Job]], ReportEnd, Console], None]


@dataclass(frozen=True)
class RemoteExecutor:
    """Runs populations in place of this machine.

    gpu_memory: bytes of the GPU of each, infinite if unknown; None for the free memory of this machine's.
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
    """Train, measure and mirror what is missing of the requests; return the outcome or the exception of each.

    A failed request is reported immediately and does not stop the others. max_members: networks per population.
    processes: populations at a time, None for one per GPU or as many as the cores allow. remote: runs the populations,
    None for this machine. Raises KeyboardInterrupt after Ctrl-C, when every population has written its checkpoint.
    """
    for name, value in (("max_members", max_members), ("processes", 1 if processes is None else processes)):
        require_integer(f"hydra.launcher.{name}", value, 1)
    console = console or Console(stderr=True)
    results: dict[int, Result] = {}
    reported: set[str] = set()

    def fail(number: int, error: Exception) -> None:
        results[number] = error
        # An error that several jobs share is reported once, for the first of them.
        reason = str(error) if isinstance(error, EquisepError) else f"{type(error).__name__}: {error}"
        if reason not in reported:
            reported.add(reason)
            print_line(console, f"failed: {requests[number].overrides}: {reason}", style="red")

    number_of: dict[Job, int] = {}
    for number, request in enumerate(requests):
        try:
            number_of[_prepare(request.config, remote, console)] = number
        except Exception as error:
            fail(number, error)
    jobs = list(number_of)
    workers = _count_workers(jobs, processes) if remote is None else 1
    gpu_memory = None if remote is None else remote.gpu_memory

    def alone(job: Job) -> bool:
        # A task of a cluster is worth more than one run; it trains them in turn.
        return remote is None and is_native(job, ConsoleObserver(console))

    populations = plan(jobs, max_members=max_members, processes=workers, gpu_memory=gpu_memory, alone=alone)
    unfinished = set(chain.from_iterable(populations))
    done = [job for job in jobs if job not in unfinished]
    results |= {number_of[job]: job.outcome() for job in done}
    for job in done:
        job.run.remove_leftovers()
    if done:
        print_line(console, f"{len(done)} of {len(requests)} runs are already done")

    def end(index: int, ended: Sequence[Result] | Exception) -> None:
        population = populations[index]
        member_results = [ended] * len(population) if isinstance(ended, Exception) else ended
        for job, result in zip(population, member_results, strict=True):
            # Members loaded from the store belong to no request.
            if job in number_of and isinstance(result, Exception):
                fail(number_of[job], result)
            elif job in number_of:
                results[number_of[job]] = result

    planned: dict[str, dict[str, Any]] = {}
    for job in chain.from_iterable(populations):
        planned.setdefault(job.config.results, {})[job.run.id] = to_plain(job.config)
    with ExitStack() as stack:
        for folder, configs in planned.items():
            stack.enter_context(planned_runs(Path(folder), configs))
        if remote is None:
            _run_populations(populations, end, workers, console)
        else:
            remote.run(populations, end, console)
    failed = [request.overrides for number, request in enumerate(requests) if isinstance(results[number], Exception)]
    if failed:
        more = f"; and {len(failed) - FAILURES_NAMED} more" if len(failed) > FAILURES_NAMED else ""
        named = "; ".join(failed[:FAILURES_NAMED])
        print_line(console, f"{len(failed)} of {len(requests)} jobs failed: {named}{more}")
    return [results[number] for number in range(len(requests))]


def launch_sweep(requests: Sequence[Request], **options: Any) -> tuple[list[dict[str, object]], int]:
    """Run a sweep; return the outcome of each request as plain values, empty if it failed, and the exit code.

    options: the other arguments of :func:`run_sweep`.
    """
    results = run_sweep(requests, **options)
    return [result.facts() if isinstance(result, Outcome) else {} for result in results], exit_code(results)


def run_one(config: Config, console: Console | None = None) -> Outcome:
    """Run a single config in this process, with a progress bar on the console; return its outcome."""
    observer = ConsoleObserver(console or Console(stderr=True))
    with observer.shown():
        try:
            (outcome,) = execute([config], observer)
        except Stopped:
            raise KeyboardInterrupt from None
    return outcome


def _prepare(config: Config | ConfigError, remote: RemoteExecutor | None, console: Console) -> Job:
    """Return a request's job; raises if it cannot be run or its run cannot be read."""
    if isinstance(config, ConfigError):
        raise config
    # A device that this machine lacks may exist on the machine that the job is sent to.
    device = choose_device if remote is None else named_device
    job = prepare(config, device(config.compute.device))
    split_into_populations([job])
    job.outcome()
    if remote is None and not job.complete:
        is_native(job, ConsoleObserver(console))
        owner = job.run.owner()
        if owner is not None:
            raise InUse(f"run {job.run.id} is in use by {describe_owner(owner)}")
    return job


def _count_workers(jobs: Sequence[Job], processes: int | None) -> int:
    threads = max((job.config.compute.threads for job in jobs), default=1)
    on_gpu = any(job.device.type == "cuda" for job in jobs)
    return processes or max(1, torch.cuda.device_count() if on_gpu else (os.cpu_count() or 1) // threads)


def _run_populations(populations: Sequence[Sequence[Job]], end: ReportEnd, workers: int, console: Console) -> None:
    """Run the populations on this machine and report each when it ends."""
    if len(populations) > 1 and workers > 1 and sum(map(operations_of, populations)) > MIN_OPERATIONS_FOR_WORKERS:
        run_in_workers(populations, end, workers, console)
        return
    if len(populations) > 1:
        run_in_turn(populations, end, console)
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
