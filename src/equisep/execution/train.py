"""Configs in, finished runs out: where data, networks, training, measures, store and mirror meet."""

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from equisep.config import Config, ConfigError, to_plain
from equisep.execution.device import accelerator_name, set_arithmetic
from equisep.execution.job import Job, evaluate_missing, prepare, split_into_populations
from equisep.execution.progress import Observer
from equisep.execution.tracking import Mirror
from equisep.measures import Epoch, NotFinite
from equisep.store import DamagedRun, InUse, Outcome, Run, machine_facts, run_title
from equisep.training import Member, Population, can_compile, has_kernels

# Fields of compute that the bits of a result depend on: a population goes on with those it was begun with.
ENGINE = ("threads", "dtype", "tf32", "deterministic")
# Compiling pays from about this many steps × layers × networks on; it takes 3 s, and 15 s the first time.
COMPILE_FROM = 50_000


class Stopped(Exception):
    """Work was asked to stop; a checkpoint of the last finished epoch, and what is measured, are written."""


def execute(configs: Sequence[Config], observer: Observer | None = None) -> list[Outcome]:
    """Train the runs that configs describe, as one population, as far as they are not; measure and mirror them.

    configs: of one shape: equal data set sizes, training schedule and compute. A finished run is not
    trained again; an interrupted one goes on from its checkpoint, together with the whole population it
    was begun in. Raises ConfigError or DataUnavailable before any work where one of them cannot be run,
    InUse where another process has it, DamagedRun where its files cannot be read, Stopped when the
    observer wants that.
    """
    observer = observer or Observer()
    trained: dict[Path, int] = {}
    holding: set[Path] = set()
    with ExitStack() as stack:
        while True:
            asked = [prepare(config) for config in configs]
            begun, fresh = split_into_populations([job for job in asked if not job.run.finished])
            populations = [*begun, fresh] if fresh else begun
            jobs = [*asked, *(job for population in populations for job in population)]
            wanted = {job.run.path: job for job in jobs if not job.complete}
            if wanted.keys() <= holding:
                break
            # Between the look and the hold another process may have begun, or finished, some: it is looked again.
            for path in sorted(wanted.keys() - holding):
                wanted[path].create_run()
                stack.enter_context(wanted[path].run.held())
                holding.add(path)
        for population in populations:
            epochs = _train(population, observer, resumed=population is not fresh)
            trained |= {job.run.path: epochs for job in population}
        # One run may be asked for under several measures: each is taken.
        for job in jobs:
            if job.missing():
                if observer.wants_stop():
                    raise Stopped("while measuring")
                set_arithmetic(job.config.compute, job.device)
                with _mirrored(job) as mirror:
                    evaluate_missing(job, mirror)
    return [job.outcome(trained.get(job.run.path, 0)) for job in asked]


@dataclass
class _MemberProgress:
    """A member's progress through training: what is recorded, and whether it diverged, after which it is left alone."""

    job: Job
    mirror: Mirror | None
    epochs: list[Epoch]
    diverged: bool

    def record(self, epoch: Epoch) -> None:
        """Record and mirror an epoch."""
        if self.diverged:
            return
        self.epochs.append(epoch)
        self.diverged = epoch.diverged
        self.job.run.append_epoch(epoch)
        if self.mirror:
            self.mirror.log_epoch(epoch)

    def keep_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Store the weights of an epoch."""
        if not self.diverged:
            self.job.run.save_snapshot(epoch, weights)

    def measure(self, epoch: int) -> None:
        """Take the evaluations of an epoch that are missing; features that are not finite mean divergence."""
        if self.diverged:
            return
        try:
            evaluate_missing(self.job, self.mirror)
        except NotFinite:
            # The last update overflowed, which no loss has shown yet.
            self.diverged = True
            self.job.run.remove_snapshot(epoch)

    def end(self, seconds: float) -> None:
        """Record the end of training, after so many seconds."""
        self.job.run.save_epochs(self.epochs)
        state = "diverged" if self.diverged else "done"
        ended = time.strftime("%Y-%m-%d %H:%M:%S")
        self.job.run.write_state(state, seconds=round(seconds, 3), ended=ended)
        self.job.run.log(f"{state} after epoch {len(self.epochs)}")


def _train(jobs: Sequence[Job], observer: Observer, *, resumed: bool) -> int:
    """Train a population from its checkpoint, or from the start, to the end; return the epochs trained."""
    leader, training = jobs[0].run, jobs[0].config.training
    names = [job.run.id for job in jobs]
    checkpoint = _load_checkpoint(leader, names, jobs[0].device) if resumed else None
    engine = checkpoint["engine"] if checkpoint else _choose_engine(jobs, observer)
    jobs, population = _build_population(jobs, engine)
    if checkpoint:
        population.load_state(checkpoint["population"])
    started_at = population.epoch
    seconds: float = checkpoint["seconds"] if checkpoint else 0.0
    kept = training.kept_epochs()
    machine = machine_facts(accelerator=accelerator_name(jobs[0].device), threads=torch.get_num_threads())
    # The mirrors are closed last: they tell how it ended.
    with ExitStack() as mirrors, ExitStack() as stack:
        stack.push(lambda kind, error, trace: _record_failure(jobs, error))
        members = []
        for index, job in enumerate(jobs):
            epochs = [Epoch(*values) for values in checkpoint["epochs"][index]] if checkpoint else []
            # What was recorded after the checkpoint is trained, and recorded, again.
            job.run.save_epochs(epochs)
            job.run.write_state("running", machine=machine | engine, population=names)
            diverged = bool(checkpoint["diverged"][index]) if checkpoint else False
            members.append(_MemberProgress(job, mirrors.enter_context(_mirrored(job)), epochs, diverged))
            facts = f"{run_title(to_plain(job.config))} ({job.data.source}; {job.device})"
            start = f"goes on after epoch {started_at}" if started_at else "starts"
            job.run.log(f"{start}, {index + 1} of {len(jobs)} in its population, {engine}: {facts}")
            observer.say(f"run {job.run.id}: {facts}" + (f", {start}" if started_at else ""))

        def save_checkpoint() -> None:
            for member in members:
                member.job.run.confirm_held()
            leader.save_checkpoint(
                {
                    "members": names,
                    "population": population.state(),
                    "engine": engine,
                    "seconds": seconds,
                    "epochs": [[astuple(epoch) for epoch in member.epochs] for member in members],
                    "diverged": [member.diverged for member in members],
                }
            )

        def stop_if_wanted() -> None:
            if observer.wants_stop():
                save_checkpoint()
                raise Stopped(f"after epoch {population.epoch}")

        observer.begin(len(jobs), training.epochs, started_at)
        while True:
            if population.epoch in kept:
                for index, member in enumerate(members):
                    member.keep_snapshot(population.epoch, population.weights(index))
            if population.epoch % jobs[0].config.compute.checkpoint_every == 0 and population.epoch > started_at:
                save_checkpoint()
            if population.epoch in kept:
                # Measuring may take longer than training: what it follows is safe by now, and a stop waits for one.
                for member in members:
                    stop_if_wanted()
                    member.measure(population.epoch)
            if population.epoch == training.epochs or all(member.diverged for member in members):
                break
            stop_if_wanted()
            clock = time.perf_counter()
            records = population.run_epoch()
            seconds += time.perf_counter() - clock
            for member, epoch in zip(members, records, strict=True):
                member.record(epoch)
            observer.advance(
                population.epoch, fmean(epoch.loss for epoch in records), fmean(epoch.accuracy for epoch in records)
            )
        for member in members:
            member.end(seconds / len(members))
        leader.remove_checkpoint()
    return population.epoch - started_at


def _build_population(jobs: Sequence[Job], engine: Mapping[str, Any]) -> tuple[list[Job], Population]:
    """Return the jobs with the means that an engine fixes, set for this process, and their untrained population."""
    stored = {name: engine[name] for name in ENGINE if name in engine}
    compute = replace(jobs[0].config.compute, **stored)
    jobs = [replace(job, config=replace(job.config, compute=compute)) for job in jobs]
    set_arithmetic(compute, jobs[0].device)
    # One object for all that train on the same tensors.
    splits = {job.data.train.digest: job.split("train") for job in jobs}
    members = [
        Member(job.network(), splits[job.data.train.digest], job.config.optimizer, job.config.seed) for job in jobs
    ]
    return jobs, Population(members, jobs[0].config.training, compiled=engine["compiled"])


def _load_checkpoint(leader: Run, members: list[str], device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint of a population; raises where it is another's, or cannot be gone on with here."""
    checkpoint = leader.load_checkpoint(device)
    if checkpoint and checkpoint["members"] != members:
        raise DamagedRun(f"{leader.path}/checkpoint.pt is another population's: remove it, and the runs start anew")
    if checkpoint and checkpoint["engine"]["compiled"] and not can_compile(device):
        raise ConfigError(f"run {leader.id} was begun with compiled kernels: install g++ and Python's headers to go on")
    return checkpoint


def _choose_engine(jobs: Sequence[Job], observer: Observer) -> dict[str, Any]:
    """Return how a fresh population is computed; stored with it, since bits depend on it."""
    config, device = jobs[0].config, jobs[0].device
    batches = -(-len(jobs[0].data.train.labels) // config.training.batch_size)
    layers = len(jobs[0].outline.layers)
    pays = config.training.epochs * batches * layers * len(jobs) >= COMPILE_FROM
    chosen = config.compute.compile == "always" or (config.compute.compile == "auto" and pays)
    wanted = chosen and has_kernels(jobs[0].outline)
    possible = can_compile(device)
    if wanted and not possible:
        observer.say(
            "no C++ compiler with Python headers (g++, python3-dev): the kernels run uncompiled, about half as fast"
        )
    return {"compiled": wanted and possible} | {name: getattr(config.compute, name) for name in ENGINE}


def _record_failure(jobs: Sequence[Job], error: BaseException | None) -> None:
    """Write into the state of every run that its training stopped, and why."""
    if error is None:
        return
    state = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit, Stopped, InUse)) else "failed"
    for job in (job for job in jobs if not job.run.finished):
        # What another process has taken over is its own to tell of.
        with suppress(InUse):
            job.run.write_state(state, error=f"{type(error).__name__}: {error}")
            job.run.log(f"{state}: {''.join(traceback.format_exception(error)).rstrip()}")


@contextmanager
def _mirrored(job: Job) -> Iterator[Mirror | None]:
    """Open the run's mirror and tell it what is recorded already; close it in the end."""
    tracking = job.config.tracking
    if tracking.mode == "off":
        yield None
        return
    mirror = Mirror(job.run, tracking, Path(job.config.results))
    mirror.replay(job.run.epochs(), job.run.load_measures(), job.run.load_robustness())
    try:
        yield mirror
    except BaseException:
        mirror.finish(failed=True)
        raise
    mirror.finish()
