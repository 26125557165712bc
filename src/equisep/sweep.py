"""A sweep's jobs as populations: what is done is dropped, what shares a shape trains together, the cores are shared.

The pieces of work are populations of at most ``max_members`` networks. A single one is trained in this
process, several in worker processes side by side, the longest first. On one machine and with the same
versions a network's result depends on its population alone, not on which process had it or what else ran.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from equisep import schema
from equisep.locks import InUse, describe_owner
from equisep.observer import ConsoleObserver, Observer, Row, SweepTable, stopping_on_interrupt
from equisep.population import gains_from_batching
from equisep.run import (
    Job,
    Outcome,
    Stopped,
    choose_device,
    execute,
    named_device,
    outcome_of,
    prepare,
    split_into_populations,
)
from equisep.schema import Config, ConfigError, to_plain
from equisep.tracking import run_title
from equisep.training import Epoch

# Floating-point operations from which starting worker processes, 6 s each, pays: some 20 s of training.
WORK_FOR_WORKERS = 9e11

# Of a GPU's free memory, what populations are cut to; the rest is for the data and what kernels need.
MEMORY_SHARE = 0.7

# Failed jobs that the last line of a sweep names.
FAILURES_TOLD = 5


@dataclass(frozen=True)
class Request:
    """One job of a sweep: its overrides as typed, and its composed config.

    seed: in place of the composed one, where jobs that differ in it alone share what was composed.
    """

    overrides: str
    composed: DictConfig
    seed: int | None = None


Result = Mapping[str, object] | Exception
# Is told what became of a population: its index, and a result for each member or one exception for all.
Ended = Callable[[int, list[Result] | Exception], None]
Runner = Callable[[Sequence[Sequence[Job]], Ended, Console], None]


@dataclass(frozen=True)
class Elsewhere:
    """What runs populations in place of this machine.

    gpu_memory: bytes of the GPU of each, infinite if unknown; None: what is free on this machine's.
    """

    run: Runner
    gpu_memory: float | None


def refuse_unless_whole(name: str, value: object, least: int) -> None:
    """Raise ConfigError for a field of the launcher that is no whole number of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"hydra.launcher.{name}={value}: give a number without a point")
    if value < least:
        raise ConfigError(f"hydra.launcher.{name}={value}: give at least {least}")


def run_sweep(
    requests: Sequence[Request],
    *,
    max_members: int,
    processes: int | None,
    console: Console | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[Result]:
    """Train, measure and mirror what is not done of the requests; return for each what became of it, or its exception.

    A request that fails is reported at once and does not stop the others. elsewhere: runs the populations in place of
    this machine. Raises KeyboardInterrupt after Ctrl-C, when every population has written its checkpoint.
    """
    for name, value in (("max_members", max_members), ("processes", 1 if processes is None else processes)):
        refuse_unless_whole(name, value, 1)
    console = console or Console(stderr=True)
    jobs: dict[int, Job] = {}
    results: dict[int, Result] = {}

    told: set[str] = set()

    def fail(number: int, error: Exception) -> None:
        results[number] = error
        # One mistake that all jobs share is told once, for the first of them.
        reason = f"{type(error).__name__}: {error}"
        if reason not in told:
            told.add(reason)
            text = f"failed: {requests[number].overrides}: {reason}"
            console.print(text, style="red", highlight=False, soft_wrap=True, markup=False)

    configs: dict[int, Config] = {}
    for number, request in enumerate(requests):
        try:
            if id(request.composed) not in configs:
                configs[id(request.composed)] = schema.typed(request.composed)
            config = configs[id(request.composed)]
            config = config if request.seed is None else replace(config, seed=request.seed)
            # What this machine has not may be where the job goes to.
            device = choose_device if elsewhere is None else named_device
            jobs[number] = _prepare(config, device(config.compute.device))
            if elsewhere is None:
                _refuse_runs_in_use(jobs[number])
        except Exception as error:
            jobs.pop(number, None)
            fail(number, error)
    workers = _workers(list(jobs.values()), processes) if elsewhere is None else 1
    gpu_memory = None if elsewhere is None else elsewhere.gpu_memory
    populations = plan(list(jobs.values()), max_members=max_members, processes=workers, gpu_memory=gpu_memory)
    number_of = {id(job): number for number, job in jobs.items()}
    to_do = {id(job) for population in populations for job in population}
    done = [number for number, job in jobs.items() if id(job) not in to_do]
    results |= {number: summary(outcome_of(jobs[number])) for number in done}
    if done:
        console.print(f"{len(done)} of {len(requests)} runs are done already", highlight=False)

    def end(index: int, ended: list[Result] | Exception) -> None:
        for place, job in enumerate(populations[index]):
            number = number_of.get(id(job))
            if number is None:
                continue
            result = ended if isinstance(ended, Exception) else ended[place]
            if isinstance(result, Exception):
                fail(number, result)
            else:
                results[number] = result

    if elsewhere is None:
        _run_populations(populations, end, workers, console)
    else:
        elsewhere.run(populations, end, console)
    _tell_failures(requests, results, console)
    return [results[number] for number in range(len(requests))]


def _tell_failures(requests: Sequence[Request], results: Mapping[int, Result], console: Console) -> None:
    """Print one line on all requests that failed, where there are any."""
    failed = [request.overrides for number, request in enumerate(requests) if isinstance(results[number], Exception)]
    if failed:
        more = f"; and {len(failed) - FAILURES_TOLD} more" if len(failed) > FAILURES_TOLD else ""
        text = f"{len(failed)} of {len(requests)} jobs failed: {'; '.join(failed[:FAILURES_TOLD])}{more}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def plan(jobs: Sequence[Job], *, max_members: int, processes: int, gpu_memory: float | None = None) -> list[list[Job]]:
    """Return the unfinished jobs as populations, the longest first.

    Interrupted populations stay what they were. The others are grouped by what a population must share
    and cut evenly into pieces of at most max_members, into more where processes would stand idle; networks
    that gain nothing from company train alone. Behind
    the members of a population stand other jobs for the same runs, which want another measure.
    """
    to_do = [job for job in jobs if not job.run.finished or job.missing()]
    unfinished = list({job.run.path: job for job in reversed(to_do)}.values())[::-1]
    first = {id(job) for job in unfinished}
    populations, fresh = split_into_populations(unfinished)
    groups: dict[str, list[Job]] = {}
    for job in fresh:
        groups.setdefault(population_key(job.config), []).append(job)
    work = sum(_work([job]) for job in unfinished)
    idle = len(populations) + len(groups) < processes and work > WORK_FOR_WORKERS
    for group in groups.values():
        # Members with equal optimizers stand side by side, so that one update serves them all.
        group.sort(key=lambda job: json.dumps(to_plain(job.config.optimizer), sort_keys=True))
        members = (
            min(max_members, members_that_fit(group[0], gpu_memory)) if gains_from_batching(group[0].outline) else 1
        )
        pieces = max(-(-len(group) // members), min(len(group), processes) if idle else 1)
        bounds = [round(piece * len(group) / pieces) for piece in range(pieces + 1)]
        populations += [group[start:end] for start, end in itertools.pairwise(bounds)]
    populations.sort(key=_work, reverse=True)
    others = [job for job in to_do if id(job) not in first]
    for population in populations:
        paths = {job.run.path for job in population}
        population += [job for job in others if job.run.path in paths]
    return populations


def members_that_fit(job: Job, gpu_memory: float | None = None) -> int:
    """Return how many networks like a job's fit into the memory of its GPU, at least one; a CPU takes any.

    gpu_memory: bytes; None: what is free on this machine's, where the job is on it.
    """
    if job.config.compute.device == "cpu":
        return sys.maxsize
    if gpu_memory is None:
        gpu_memory = torch.cuda.mem_get_info(job.device)[0] if job.device.type == "cuda" else math.inf
    return int(max(1, min(sys.maxsize, MEMORY_SHARE * gpu_memory / job.memory)))


def population_key(config: Config) -> str:
    """Return what the members of a population must share: shapes, schedule, means."""
    plain = to_plain(config)
    del plain["dataset"]["subset_seed"]
    for name in ("mean", "std"):
        plain["dataset"][name] = len(plain["dataset"][name])
    shared = ("architecture", "dataset", "training", "compute", "results")
    return json.dumps({name: plain[name] for name in shared}, sort_keys=True)


def summary(outcome: Outcome) -> dict[str, object]:
    """Return what a sweep's caller wants to know of a run, as plain values."""
    facts: dict[str, object] = {"run": outcome.run.id, "state": outcome.state, "trained_epochs": outcome.trained_epochs}
    if outcome.final is not None:
        facts["train_accuracy"] = outcome.final.accuracy
        law = outcome.final.law()
        if law is not None:
            facts |= {"r": law.pearson_r, "decay_ratio": law.decay_ratio}
    return facts


def describe(facts: Mapping[str, object]) -> str:
    """Return a run's summary as a line."""
    line = f"run {facts['run']}: {facts['state']}"
    if "r" in facts:
        line += f", r = {facts['r']:.4f}, ρ = {facts['decay_ratio']:.4f}"
    elif facts["state"] == "done":
        line += ", no law (D of a layer is 0, or the last epoch is not measured)"
    if "train_accuracy" in facts:
        line += f", training accuracy {facts['train_accuracy']:.4f}"
    return line + ("" if facts["trained_epochs"] else " (nothing to train)")


def run_one(config: Config, console: Console | None = None) -> dict[str, object]:
    """Run a single config in this process, with a bar on the console; return its summary."""
    observer = ConsoleObserver(console or Console(stderr=True))
    with observer.shown():
        try:
            (outcome,) = execute([config], observer)
        except Stopped:
            raise KeyboardInterrupt from None
    return summary(outcome)


def _prepare(config: Config, device: torch.device) -> Job:
    """Return a config's job; raises for whatever keeps it from being run or looked up."""
    job = prepare(config, device)
    split_into_populations([job])
    outcome_of(job)
    return job


def _refuse_runs_in_use(job: Job) -> None:
    """Raise InUse where there is something to do for a job, and another process does it."""
    if job.missing() or not job.run.finished:
        owner = job.run.owner()
        if owner is not None:
            raise InUse(f"run {job.run.id} is in use by {describe_owner(owner)}")


def _workers(jobs: Sequence[Job], processes: int | None) -> int:
    if any(job.device.type == "cuda" for job in jobs):
        return processes or max(1, torch.cuda.device_count())
    threads = max((job.config.compute.threads for job in jobs), default=1)
    return processes or max(1, (os.cpu_count() or 1) // threads)


def _work(population: Sequence[Job]) -> float:
    return sum(job.operations for job in population)


def _run_populations(populations: Sequence[Sequence[Job]], end: Ended, workers: int, console: Console) -> None:
    """Run the populations and tell ``end`` what became of each as it comes."""
    if len(populations) > 1 and workers > 1 and sum(map(_work, populations)) > WORK_FOR_WORKERS:
        _run_in_workers(populations, end, workers, console)
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
                facts = [summary(outcome) for outcome in outcomes]
                for member in facts:
                    observer.say(describe(member))
                end(index, list(facts))
        if observer.wants_stop():
            raise KeyboardInterrupt


def _run_in_workers(populations: Sequence[Sequence[Job]], end: Ended, workers: int, console: Console) -> None:
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    stop = context.Event()
    rows = [Row(_shape(population[0].config), len(population)) for population in populations]
    table = SweepTable(rows, console)
    left = dict.fromkeys(range(len(populations)), 2)
    with table.shown(), stopping_on_interrupt(stop.set):
        # A worker that dies, of lack of memory say, breaks its pool: the others' work is taken up in a new one.
        while left and not stop.is_set():
            count = min(workers, len(left))
            gpus = context.SimpleQueue()
            for worker in range(count):
                gpus.put(gpu_of_worker(worker, torch.cuda.device_count()))
            pool = ProcessPoolExecutor(count, context, _initialise_worker, (messages, stop, gpus))
            with pool:
                through = _run_pool(pool, {index: populations[index] for index in left}, messages, table, end)
            broken = {index: tries - 1 for index, tries in left.items() if index not in through}
            left = {index: tries for index, tries in broken.items() if tries}
            for index in [] if stop.is_set() else broken.keys() - left.keys():
                end(index, RuntimeError("its worker process died twice; out of memory? try hydra.launcher.processes=1"))
    if stop.is_set():
        raise KeyboardInterrupt


def _run_pool(
    pool: ProcessPoolExecutor, populations: Mapping[int, Sequence[Job]], messages: Any, table: SweepTable, end: Ended
) -> list[int]:
    """Run populations in a pool and return those that came to an end, whichever; the others met a broken pool."""
    # Ignored while the processes start, which inherit that: Ctrl-C is this process's to deal with.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    futures: dict[Future[list[dict[str, object]]], int] = {
        pool.submit(_run_in_worker, index, [job.config for job in population]): index
        for index, population in populations.items()
    }
    signal.signal(signal.SIGINT, before)
    waiting = set(futures)
    through = []
    while waiting:
        finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        _take_messages(messages, table)
        for future in finished:
            index, error = futures[future], future.exception()
            if isinstance(error, BrokenProcessPool):
                table.end(index, "its worker died")
                continue
            through.append(index)
            if error is None:
                table.end(index, "done")
                for facts in future.result():
                    table.say(describe(facts))
                end(index, list(future.result()))
            elif isinstance(error, Stopped):
                table.end(index, "interrupted")
            else:
                table.end(index, "failed")
                end(index, error if isinstance(error, Exception) else RuntimeError(str(error)))
    return through


def _take_messages(messages: Any, table: SweepTable) -> None:
    while True:
        try:
            kind, index, *values = messages.get_nowait()
        except queue.Empty:
            return
        if kind == "say":
            table.say(*values)
        elif kind == "begin":
            table.begin(index, *values)
        else:
            table.advance(index, *values)


def _shape(config: Config) -> str:
    """Return what a population's members have in common, for a person."""
    return run_title(to_plain(config)).rsplit(",", 2)[0]


class _WorkerObserver(Observer):
    """Passes on to the sweep's process what one of its populations does."""

    def __init__(self, index: int, messages: Any, stop: Any) -> None:
        self.index, self.messages, self.stop = index, messages, stop
        self.told = 0.0

    def say(self, line: str) -> None:
        if not line.startswith("run "):
            self.messages.put(("say", self.index, line))

    def begin(self, members: int, epochs: int, done: int) -> None:
        self.messages.put(("begin", self.index, epochs, done))

    def advance(self, members: Sequence[Epoch]) -> None:
        if time.monotonic() - self.told > 0.3:
            self.told = time.monotonic()
            self.messages.put(("advance", self.index, members[0].epoch))

    def wants_stop(self) -> bool:
        return bool(self.stop.is_set())


@dataclass
class _Worker:
    """What a worker process is given when it starts."""

    messages: Any = None
    stop: Any = None


_worker = _Worker()


def gpu_of_worker(worker: int, gpus: int) -> int | None:
    """Return the number of the GPU that a worker process has, so that they share those of the machine evenly."""
    return worker % gpus if gpus else None


def _initialise_worker(messages: Any, stop: Any, gpus: Any) -> None:
    gpu = gpus.get()
    if gpu is not None:
        torch.cuda.set_device(gpu)
    # Ctrl-C reaches the whole process group; the sweep's process tells the workers to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.messages, _worker.stop = messages, stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the sweep's process was killed; the checkpoint is what a kill leaves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(index: int, configs: Sequence[Config]) -> list[dict[str, object]]:
    if _worker.stop.is_set():
        raise Stopped
    outcomes = execute(configs, _WorkerObserver(index, _worker.messages, _worker.stop))
    return [summary(outcome) for outcome in outcomes]
