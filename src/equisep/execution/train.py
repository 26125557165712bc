"""Training and measuring the runs of configs: the combination of data, networks, training, measures and store."""

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from equisep.config import Compute, Config, ConfigError, EquisepError, to_plain
from equisep.execution.device import accelerator_name, set_arithmetic
from equisep.execution.job import Job, evaluate_missing, prepare, split_into_populations
from equisep.execution.progress import Observer, announced
from equisep.execution.tracking import Mirror
from equisep.measures import Epoch, NotFinite
from equisep.networks import errors_of_custom_code
from equisep.store import DamagedRun, InUse, Outcome, machine_facts, run_title
from equisep.training import (
    Member,
    Population,
    Trainer,
    can_compile,
    engine_of,
    has_kernels,
    kernels_id,
    kernels_of,
    native_trainer,
    why_not_native,
)

# Fields of compute that the bits of a result depend on; a population resumes with those it was started with.
ENGINE = ("threads", "dtype", "tf32", "deterministic")
# Steps × layers × networks above which compiling pays off; it takes 3 s, and 15 s the first time.
MIN_LAYER_STEPS_TO_COMPILE = 50_000


class Stopped(Exception):
    """Work was stopped on request; a checkpoint of the last finished epoch and all measurements are written."""


def execute(configs: Sequence[Config], observer: Observer | None = None) -> list[Outcome]:
    """Train, measure and mirror whatever is missing from the configs' runs; return their outcomes.

    The native engine trains each run by itself; other new runs train as one population, so that their configs must be
    of equal data set sizes, training schedule and compute. A finished run is not trained again; an interrupted one
    resumes from its checkpoint, together with the whole population that it was started in. Raises ConfigError or
    DataUnavailable before any work if a run is impossible, InUse if another process has it, DamagedRun if its files
    cannot be read, Stopped if the observer requests it.
    """
    observer = observer or Observer()
    trained: dict[Path, int] = {}
    locked: set[Path] = set()
    with ExitStack() as stack:
        while True:
            requested = [prepare(config) for config in configs]
            interrupted, fresh = split_into_populations([job for job in requested if not job.run.finished])
            alone = [job for job in fresh if is_native(job, observer)]
            together = [job for job in fresh if job not in alone]
            populations = [*interrupted, *([job] for job in alone), *([together] if together else [])]
            jobs = [*requested, *chain.from_iterable(populations)]
            incomplete = {job.run.path: job for job in jobs if not job.complete}
            if incomplete.keys() <= locked:
                break
            # Another process may start or finish a run before it is locked here, so all are prepared again.
            for path in sorted(incomplete.keys() - locked):
                incomplete[path].create_run()
                stack.enter_context(incomplete[path].run.held())
                locked.add(path)
        for population in populations:
            with errors_of_custom_code(population[0].config.architecture, population[0].run.path / "run.log"):
                epochs = _train(population, observer, resumed=population in interrupted)
            trained |= {job.run.path: epochs for job in population}
        # One run may be requested with several measures.
        for job in jobs:
            if missing := job.missing():
                if observer.wants_stop():
                    raise Stopped("while measuring")
                set_arithmetic(job.config.compute, job.device)
                what = f"run {job.run.id}: measuring {len(missing)} snapshots"
                with _mirrored(job) as mirror, announced(observer, what):
                    evaluate_missing(job, mirror)
    return [job.outcome(trained.get(job.run.path, 0)) for job in requested]


@dataclass
class _MemberProgress:
    """A member's progress through training; after it has diverged, nothing more is recorded."""

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
        """Evaluate what is missing; the member has diverged if features of this epoch are not finite."""
        if self.diverged:
            return
        try:
            evaluate_missing(self.job, self.mirror)
        except NotFinite:
            # The last update overflowed, which the loss does not show yet.
            self.diverged = True
            self.job.run.remove_snapshot(epoch)

    def end(self, seconds: float) -> None:
        """Record the end of training. seconds: of training."""
        self.job.run.save_epochs(self.epochs)
        state = "diverged" if self.diverged else "done"
        self.job.run.write_state(state, seconds=round(seconds, 3), ended=time.strftime("%Y-%m-%d %H:%M:%S"))
        self.job.run.log(f"{state} after epoch {len(self.epochs)}")


def _train(jobs: Sequence[Job], observer: Observer, *, resumed: bool) -> int:
    """Train a population to the end, from its checkpoint or from the start; return the number of epochs trained."""
    leader, training, compute = jobs[0].run, jobs[0].config.training, jobs[0].config.compute
    ids = [job.run.id for job in jobs]
    checkpoint = _load_checkpoint(jobs[0], ids, observer) if resumed else None
    engine = checkpoint["engine"] if checkpoint else _choose_engine(jobs, observer)
    if checkpoint and (settings := _settings_kept(engine, compute)):
        observer.say(f"resumed as started, with {settings}")
    jobs, population = _build_trainer(jobs, engine)
    if checkpoint:
        population.load_state(checkpoint["population"])
    started_at = population.epoch
    seconds: float = checkpoint["seconds"] if checkpoint else 0.0
    saved_at = seconds
    kept = training.kept_epochs()
    # The mirrors are closed last, so that they include the final state.
    with ExitStack() as mirrors, ExitStack() as stack:
        stack.push(lambda kind, error, trace: _record_failure(jobs, error))
        members = _start(jobs, checkpoint, engine, observer, mirrors)

        def save_checkpoint() -> None:
            nonlocal saved_at
            saved_at = seconds
            for member in members:
                member.job.run.confirm_held()
            leader.save_checkpoint(
                {
                    "members": ids,
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
            due = population.epoch % compute.checkpoint_every == 0 and population.epoch > started_at
            if due and seconds - saved_at >= compute.checkpoint_seconds:
                save_checkpoint()
            if population.epoch in kept:
                # Measuring may take longer than training: the checkpoint is written before, and a stop is possible
                # before each member.
                with announced(observer, f"measuring epoch {population.epoch}"):
                    for member in members:
                        stop_if_wanted()
                        member.measure(population.epoch)
            if population.epoch == training.epochs or all(member.diverged for member in members):
                break
            stop_if_wanted()
            clock = time.perf_counter()
            # The first epoch compiles the kernels.
            compiling = engine["compiled"] and population.epoch == started_at
            with announced(observer, "compiling kernels") if compiling else nullcontext():
                records = population.run_epoch()
            seconds += time.perf_counter() - clock
            for member, epoch in zip(members, records, strict=True):
                member.record(epoch)
            finite = [epoch for epoch in records if not epoch.diverged] or records
            observer.advance(
                population.epoch, fmean(epoch.loss for epoch in finite), fmean(epoch.accuracy for epoch in finite)
            )
        for member in members:
            member.end(seconds / len(members))
        leader.remove_checkpoint()
    return population.epoch - started_at


def _start(
    jobs: Sequence[Job],
    checkpoint: Mapping[str, Any] | None,
    engine: Mapping[str, Any],
    observer: Observer,
    mirrors: ExitStack,
) -> list[_MemberProgress]:
    """Record that the members of a population start, or resume from a checkpoint, and open their mirrors."""
    ids = [job.run.id for job in jobs]
    machine = machine_facts(accelerator=accelerator_name(jobs[0].device), threads=torch.get_num_threads())
    resumption = f"resumed after epoch {checkpoint['population']['epoch']}" if checkpoint else ""
    for line in dict.fromkeys(f"images of {job.config.dataset.name}: {job.data.preparation}" for job in jobs):
        observer.say(line)
    members = []
    for index, job in enumerate(jobs):
        epochs = [Epoch(*values) for values in checkpoint["epochs"][index]] if checkpoint else []
        # Epochs after the checkpoint are trained and recorded again; without one, all of them.
        job.run.save_epochs(epochs)
        if checkpoint:
            job.run.discard_results_after(checkpoint["population"]["epoch"])
        else:
            job.run.discard_results()
        job.run.write_state("running", machine=machine | dict(engine), population=ids)
        diverged = bool(checkpoint["diverged"][index]) if checkpoint else False
        members.append(_MemberProgress(job, mirrors.enter_context(_mirrored(job)), epochs, diverged))
        facts = f"{run_title(to_plain(job.config))} ({job.data.source}; {job.device})"
        job.run.log(f"{resumption or 'starts'}, {index + 1} of {len(jobs)} in its population, {engine}: {facts}")
        observer.say(f"run {job.run.id}: {facts}" + (f", {resumption}" if resumption else ""))
    return members


def _build_trainer(jobs: Sequence[Job], engine: Mapping[str, Any]) -> tuple[list[Job], Trainer]:
    """Return the jobs with the engine's execution settings, which are set in this process, and their trainer."""
    compute = replace(jobs[0].config.compute, **{name: engine[name] for name in ENGINE if name in engine})
    # A run that was started natively is finished so, even if a GPU has been found since.
    native = engine.get("engine") == "native"
    device = torch.device("cpu") if native else jobs[0].device
    jobs = [replace(job, config=replace(job.config, compute=compute), device=device) for job in jobs]
    set_arithmetic(compute, device)
    # Members that train on the same tensors share one object.
    splits = {job.data.train.digest: job.split("train") for job in jobs}
    members = [
        Member(job.network(), splits[job.data.train.digest], job.config.optimizer, job.config.seed) for job in jobs
    ]
    training = jobs[0].config.training
    if native:
        return jobs, native_trainer(members, training)
    return jobs, Population(members, training, compiled=engine["compiled"])


def _settings_kept(engine: Mapping[str, Any], compute: Compute) -> str:
    """Return the settings that a resumed training keeps although the config has others, '' if there are none."""
    kept = {name: engine[name] for name in ENGINE if engine.get(name, getattr(compute, name)) != getattr(compute, name)}
    used = "native" if engine.get("engine") == "native" else "batched"
    kept |= {} if compute.engine in ("auto", used) else {"engine": used}
    return ", ".join(f"compute.{name}={value}" for name, value in kept.items())


def is_native(job: Job, observer: Observer) -> bool:
    """Return whether the native engine trains a new run; raises ConfigError if it is requested and impossible here."""
    if job.native_kernels is None:
        return False
    with announced(observer, "compiling the native kernels"):
        problem = why_not_native(job.native_kernels)
    if problem and job.config.compute.engine == "native":
        raise ConfigError(f"compute.engine=native: {problem}; install g++ or set compute.engine=auto")
    return not problem


def _load_checkpoint(job: Job, members: list[str], observer: Observer) -> dict[str, Any] | None:
    """Return the checkpoint of a population; raises if it is another population's or cannot be resumed here."""
    leader, kernels = job.run, kernels_of(job.outline)
    checkpoint = leader.load_checkpoint(job.device, observer.say)
    if checkpoint and checkpoint["members"] != members:
        raise DamagedRun(f"{leader.path}/checkpoint.pt is another population's: remove it to train from the start")
    if checkpoint and kernels and checkpoint["engine"].get("engine") == "native":
        if problem := why_not_native(kernels):
            raise ConfigError(f"run {leader.id} was started by the native engine: {problem}; install g++ to resume it")
        if checkpoint["engine"]["kernels"] != kernels_id(kernels):
            observer.say(f"run {leader.id}: the compiler or processor is not that of its start; its bits may differ")
    if checkpoint and checkpoint["engine"]["compiled"] and not can_compile(job.device):
        raise ConfigError(f"run {leader.id} uses compiled kernels; install g++ and Python's headers to resume it")
    return checkpoint


def _choose_engine(jobs: Sequence[Job], observer: Observer) -> dict[str, Any]:
    """Return the engine of new runs; it is stored with them, since bits depend on it."""
    settings = {name: getattr(jobs[0].config.compute, name) for name in ENGINE}
    kernels = jobs[0].native_kernels
    if kernels and is_native(jobs[0], observer):
        return {"engine": "native", "kernels": kernels_id(kernels), "compiled": False} | settings
    if kernels:
        observer.say(f"{why_not_native(kernels)}: training without the native engine, at about half the speed")
    compute, device, outline = jobs[0].config.compute, jobs[0].device, jobs[0].outline
    batches = -(-len(jobs[0].data.train.labels) // jobs[0].config.training.batch_size)
    pays = jobs[0].config.training.epochs * batches * len(outline.layers) * len(jobs) >= MIN_LAYER_STEPS_TO_COMPILE
    useful = compute.compile == "always" or (compute.compile == "auto" and pays)
    compiled = useful and has_kernels(outline) and jobs[0].follows_protocol
    if compiled and not can_compile(device):
        compiled = False
        missing = "no C++ compiler with Python headers (g++, python3-dev)"
        observer.say(f"{missing}: training without compiled kernels, at about half the speed")
    engine = engine_of(outline, len(jobs), jobs[0].config.optimizer, jobs[0].config.training)
    return {"engine": engine, "compiled": compiled} | settings


def _record_failure(jobs: Sequence[Job], error: BaseException | None) -> None:
    """Record in the state of every unfinished run that its training stopped, and why."""
    if error is None:
        return
    state = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit, Stopped, InUse)) else "failed"
    for job in jobs:
        # The error itself matters more than one of recording it: the run may be another process's now, its state
        # damaged, the disk full.
        with suppress(EquisepError, OSError):
            if job.run.finished:
                continue
            job.run.write_state(state, error=f"{type(error).__name__}: {error}")
            # A traceback tells nothing of a run that the user stopped.
            reason = str(error) if state == "interrupted" else "".join(traceback.format_exception(error)).rstrip()
            job.run.log(f"{state}: {reason or type(error).__name__}")


@contextmanager
def _mirrored(job: Job) -> Iterator[Mirror | None]:
    """Open the run's mirror, and close it at the end."""
    if job.config.tracking.mode == "off":
        yield None
        return
    mirror = Mirror(job.run, job.config.tracking, Path(job.config.results))
    try:
        yield mirror
    except BaseException:
        mirror.finish(failed=True)
        raise
    mirror.finish()
