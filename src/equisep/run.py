"""Configs in, finished runs out: the one place where data, networks, training, measure, store and mirror meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from equisep.data import Data, load_data
from equisep.measure import INPUT, evaluate, measure_separation
from equisep.networks import build_network
from equisep.runs import DamagedRun, LayerRecord, Run, machine_facts, measure_id, run_id
from equisep.schema import Config, ConfigError, Dataset, Training, to_plain
from equisep.separation import NotFinite
from equisep.tracking import Mirror, run_title
from equisep.training import Epoch, Member, Population


@dataclass(frozen=True)
class Outcome:
    """What became of a run. state: done or diverged; final: D after the last epoch on the training set, if measured."""

    run: Run
    state: str
    final: LayerRecord | None
    trained_epochs: int


@dataclass(frozen=True)
class Job:
    """A run, the config that asks for it, and the data and device it is trained and measured on."""

    config: Config
    run: Run
    data: Data
    device: torch.device

    def network(self) -> nn.Module:
        """Return the freshly initialised network, on the device."""
        shape = tuple(self.data.train.inputs.shape[1:])
        return build_network(self.config.architecture, shape, len(self.data.classes), self.config.seed).to(self.device)

    def missing(self) -> list[tuple[int, str]]:
        """Return the (epoch, split) pairs that the config asks for, that have a snapshot and no record yet."""
        measure = self.config.measure
        have = {(record.epoch, record.split) for record in self.run.load_measure(measure)}
        last = [self.config.training.epochs]
        wanted = {"train": measure.epochs, "test": last if measure.test_epochs is None else measure.test_epochs}
        return [
            (epoch, split)
            for epoch in self.run.snapshot_epochs()
            for split, epochs in wanted.items()
            if (epochs is None or epoch in epochs) and (epoch, split) not in have
        ]

    def measure_missing(self, mirror: Mirror | None) -> None:
        """Measure, record and mirror what is missing."""
        missing = self.missing()
        if not missing:
            return
        network = self.network()
        records = self.run.load_measure(self.config.measure)
        for epoch, split in missing:
            network.load_state_dict(self.run.load_snapshot(epoch))
            records.append(_measure_snapshot(network, self.data, self.config, epoch, split))
            self.run.save_measure(self.config.measure, records)
            if mirror:
                mirror.log_measure(measure_id(self.config.measure), records[-1])


def execute(configs: Sequence[Config], console: Console | None = None) -> list[Outcome]:
    """Train the runs that configs describe, as one population, as far as they are not; measure and mirror them.

    configs: of one shape: equal data set sizes, training schedule and compute. A finished run is not
    trained again, an interrupted one goes on from its checkpoint. Raises ConfigError or DataUnavailable
    before any work where one of them cannot be run, RunInUse where another process has it, DamagedRun
    where its files cannot be read.
    """
    console = console or Console(stderr=True)
    device = choose_device(configs[0].compute.device)
    torch.set_num_threads(configs[0].compute.threads)
    jobs = [_prepare(config, device) for config in configs]
    trained = 0
    with ExitStack() as stack:
        for job in jobs:
            if not job.run.finished or job.missing():
                job.run.create(job.config, _data_facts(job.data))
                stack.enter_context(job.run.held())
        unfinished = [job for job in jobs if not job.run.finished]
        if unfinished:
            trained = _train(unfinished, console)
        for job in jobs:
            if job.missing():
                with _mirrored(job) as mirror:
                    job.measure_missing(mirror)
    return [
        Outcome(
            job.run, job.run.state()["state"], final_record(job.run, job.config), trained if job in unfinished else 0
        )
        for job in jobs
    ]


def final_record(run: Run, config: Config, split: str = "train") -> LayerRecord | None:
    """Return a run's record after the last epoch under a config's measure, or None where there is none."""
    records = run.load_measure(config.measure)
    final = [record for record in records if (record.epoch, record.split) == (config.training.epochs, split)]
    return final[0] if final else None


def choose_device(name: str) -> torch.device:
    """Return the device a config names; raises ConfigError where the machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device={name}: not on this machine ({reason}); take cpu or auto") from None
    return device


def _prepare(config: Config, device: torch.device) -> Job:
    """Return the job of a config; raises for whatever cannot be run."""
    results = Path(config.results)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results={results}: {error.strerror}; name a folder that can be written to") from None
    data = _load_cached(yaml.safe_dump(to_plain(config.dataset)))
    job = Job(config, Run(results, run_id(config, data.train.digest())), data, device)
    _refuse_lone_images(job)
    _refuse_epochs_not_kept(job.run, config)
    if job.run.state()["state"] != "new" and job.run.config()["data"]["test_digest"] != data.test.digest():
        raise ConfigError(f"run {job.run.id} was measured on another test set: name another results folder")
    return job


def _data_facts(data: Data) -> dict[str, str]:
    return {"digest": data.train.digest(), "test_digest": data.test.digest(), "source": data.source}


def _refuse_lone_images(job: Job) -> None:
    """Raise ConfigError where a last batch of one image would meet batch normalisation over the batch alone."""
    if not any(isinstance(module, nn.BatchNorm1d) for module in job.network().modules()):
        return
    train, test = len(job.data.train.labels), len(job.data.test.labels)
    measured_in_batches = job.config.measure.batch_norm == "batch"
    batches = [("training", job.config.training.batch_size, train)]
    batches += [("measure", job.config.measure.batch_size, images) for images in (train, test) if measured_in_batches]
    for group, size, images in batches:
        if images % size == 1:
            raise ConfigError(
                f"{group}.batch_size={size}: of {images} images the last batch would hold one, "
                "which batch normalisation cannot take; choose another size"
            )


@dataclass
class _Course:
    """A job on its way through training: what has been recorded, and whether it diverged, after which it rests."""

    job: Job
    mirror: Mirror | None
    epochs: list[Epoch]
    diverged: bool

    def record(self, epoch: Epoch) -> None:
        self.job.run.beat()
        if self.diverged:
            return
        self.epochs.append(epoch)
        self.diverged = epoch.diverged
        self.job.run.append_epoch(epoch)
        if self.mirror:
            self.mirror.log_epoch(epoch)

    def keep_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        if self.diverged:
            return
        self.job.run.save_snapshot(epoch, weights)
        try:
            self.job.measure_missing(self.mirror)
        except NotFinite:
            # The last update overflowed, which no loss has shown yet.
            self.diverged = True
            self.job.run.remove_snapshot(epoch)

    def end(self, seconds: float) -> None:
        self.job.run.save_epochs(self.epochs)
        self.job.run.write_state("diverged" if self.diverged else "done", seconds=round(seconds, 3))


def _train(jobs: Sequence[Job], console: Console) -> int:
    """Train a population from its checkpoint, or from the start, to the end; return the epochs trained."""
    training, device = jobs[0].config.training, jobs[0].device
    members = [Member(job.network(), job.data.train.to(device), job.config.optimizer, job.config.seed) for job in jobs]
    population = Population(members, training)
    checkpoint = jobs[0].run.load_checkpoint(device)
    if checkpoint is not None:
        population.load_state(checkpoint["population"])
    started_at = population.epoch
    seconds: float = checkpoint["seconds"] if checkpoint else 0.0
    kept = training.kept_epochs()
    with ExitStack() as stack:
        courses = []
        for index, job in enumerate(jobs):
            epochs = [Epoch(*values) for values in checkpoint["epochs"][index]] if checkpoint else []
            # What was recorded after the checkpoint is trained, and recorded, again.
            job.run.save_epochs(epochs)
            job.run.write_state("running", machine=machine_facts(device))
            diverged = bool(checkpoint["diverged"][index]) if checkpoint else False
            courses.append(_Course(job, stack.enter_context(_mirrored(job)), epochs, diverged))
            facts = f"{run_title(to_plain(job.config))} ({job.data.source}; {device})"
            console.print(f"run {job.run.id}: {facts}", highlight=False, soft_wrap=True)
        advance = stack.enter_context(_progress(console, training.epochs, started_at))
        stack.push(lambda kind, error, trace: _record_failure(jobs, error))
        while True:
            if population.epoch in kept:
                for index, course in enumerate(courses):
                    course.keep_snapshot(population.epoch, population.weights(index))
            if population.epoch > started_at and population.epoch % jobs[0].config.compute.checkpoint_every == 0:
                jobs[0].run.save_checkpoint(
                    {
                        "population": population.state(),
                        "seconds": seconds,
                        "epochs": [[astuple(epoch) for epoch in course.epochs] for course in courses],
                        "diverged": [course.diverged for course in courses],
                    }
                )
            if population.epoch == training.epochs or all(course.diverged for course in courses):
                break
            clock = time.perf_counter()
            epochs = population.run_epoch()
            seconds += time.perf_counter() - clock
            for course, epoch in zip(courses, epochs, strict=True):
                course.record(epoch)
            advance(epochs)
        for course in courses:
            course.end(seconds / len(courses))
        jobs[0].run.remove_checkpoint()
    return population.epoch - started_at


def _record_failure(jobs: Sequence[Job], error: BaseException | None) -> None:
    """Write into the state of every run that its training stopped, and why."""
    if error is None:
        return
    state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    for job in jobs:
        job.run.write_state(state, error=f"{type(error).__name__}: {error}")


def _measure_snapshot(network: nn.Module, data: Data, config: Config, epoch: int, name: str) -> LayerRecord:
    split = data.train if name == "train" else data.test
    device = next(network.parameters()).device
    inputs, labels = split.inputs.to(device), split.labels.to(device)
    layers: Sequence[str] = network.layers  # type: ignore[assignment]
    separations = measure_separation(
        network,
        inputs,
        labels,
        layers,
        batch_norm=config.measure.batch_norm,  # type: ignore[arg-type]
        batch_size=config.measure.batch_size,
        weighting=config.measure.weighting,  # type: ignore[arg-type]
        memory_limit=config.measure.memory_limit,
    )
    evaluation = evaluate(network, inputs, labels)
    return LayerRecord(
        epoch=epoch,
        split=name,
        layers=(INPUT, *layers),
        fuzziness=tuple(value.fuzziness for value in separations.values()),
        rank=tuple(value.rank for value in separations.values()),
        classes=separations[INPUT].classes,
        loss=evaluation.loss,
        accuracy=evaluation.accuracy,
    )


def _refuse_epochs_not_kept(run: Run, config: Config) -> None:
    """Raise ConfigError where a measure asks for epochs whose weights the run does not or will not keep."""
    state = run.state()["state"]
    if state == "diverged":
        return
    # A run goes on with the snapshots it was begun with.
    training = config.training if state == "new" else Training(**run.config()["training"])
    kept = run.snapshot_epochs() if state == "done" else training.kept_epochs()
    if state == "done" and config.training.epochs not in kept:
        raise DamagedRun(f"run {run.id} has lost its last snapshot: remove {run.path}, and it is trained again")
    for name, epochs in (("epochs", config.measure.epochs), ("test_epochs", config.measure.test_epochs)):
        absent = sorted(set(epochs or ()) - set(kept))
        if absent:
            whose = "training.snapshots keeps" if state == "new" else f"run {run.id} keeps"
            raise ConfigError(f"measure.{name}={epochs}: {whose} the epochs {sorted(kept)}, not {absent[0]}")


@lru_cache(maxsize=4)
def _load_cached(dataset: str) -> Data:
    return load_data(Dataset(**yaml.safe_load(dataset)))


@contextmanager
def _mirrored(job: Job) -> Iterator[Mirror | None]:
    """Open the run's mirror and tell it what is recorded already; close it in the end."""
    tracking = job.config.tracking
    if tracking.mode == "off":
        yield None
        return
    mirror = Mirror(job.run, tracking, Path(job.config.results))
    mirror.replay(job.run.epochs(), job.run.load_measures())
    try:
        yield mirror
    except BaseException:
        mirror.finish(failed=True)
        raise
    mirror.finish()


@contextmanager
def _progress(console: Console, epochs: int, done: int) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """Show a bar with mean loss, mean accuracy and time left; the context value advances it by an epoch.

    Where the output is no terminal, a line is printed every tenth of the way instead.
    """
    if not console.is_terminal:
        step = max(1, epochs // 10)

        def line(members: Sequence[Epoch]) -> None:
            if members[0].epoch % step == 0:
                text = f"epoch {members[0].epoch}/{epochs}  {_summary(members)}"
                console.print(text, highlight=False, soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=epochs, completed=done)
        yield lambda members: progress.update(bar, completed=members[0].epoch, description=_summary(members))


def _summary(members: Sequence[Epoch]) -> str:
    loss = sum(epoch.loss for epoch in members) / len(members)
    accuracy = sum(epoch.accuracy for epoch in members) / len(members)
    return f"loss {loss:.4f}  accuracy {accuracy:.3f}"
