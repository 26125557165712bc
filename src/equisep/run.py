"""Configs in, finished runs out: the one place where data, networks, training, measure, store and mirror meet."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equisep.data import Data, DataUnavailable, Split, load_data
from equisep.locks import InUse
from equisep.measure import INPUT, evaluate, measure_separation
from equisep.networks import Network, build_network, forward_operations, outline_network, training_values
from equisep.observer import Observer
from equisep.population import can_compile, has_kernels
from equisep.robustness import Images, measure_robustness
from equisep.runs import DamagedRun, LayerRecord, Perturbed, Run, machine_facts, measure_id, robustness_id, run_id
from equisep.schema import (
    Compute,
    Config,
    ConfigError,
    Dataset,
    architecture_from_plain,
    from_plain,
    identity_of_measure,
    identity_of_robustness,
    to_plain,
)
from equisep.separation import NotFinite
from equisep.tracking import Mirror, run_title
from equisep.training import Epoch, Member, Population

# Fields of compute that the bits of a result depend on: a population goes on with those it was begun with.
ENGINE = ("threads", "dtype", "tf32", "deterministic")

# Beside the splits that D is taken on: what perturbations do to the trained network.
ROBUSTNESS = "robustness"

# Compiling pays from about this many steps × layers × networks on; it takes 3 s, and 15 s the first time.
COMPILE_FROM = 50_000


class Stopped(Exception):
    """Work was asked to stop; a checkpoint of the last finished epoch, and what is measured, are written."""


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

    def network(self) -> Network:
        """Return the freshly initialised network, on the device."""
        network = build_network(self.config.architecture, *self._shape, self.config.seed)
        return network.to(self.device, self.dtype)

    @property
    def outline(self) -> Network:
        """The network without its values: names and shapes; one object for all jobs of an architecture."""
        return _outline(_as_key(self.config.architecture), *self._shape)

    @cached_property
    def operations(self) -> float:
        """Floating-point operations of the whole training: forward, and twice that backward, of every image."""
        forward = _count_operations(_as_key(self.config.architecture), *self._shape)
        return 3.0 * forward * len(self.data.train.labels) * self.config.training.epochs

    @property
    def _shape(self) -> tuple[tuple[int, ...], int]:
        return tuple(self.data.train.inputs.shape[1:]), len(self.data.classes)

    @cached_property
    def memory(self) -> int:
        """Bytes that a member of a population takes on its device while it trains."""
        values = training_values(self.outline, self._shape[0], self.config.training.batch_size)
        return values * self.dtype.itemsize

    @property
    def points(self) -> tuple[str, ...]:
        """The modules whose outputs are the points of the law behind the input, as the measure's view has them."""
        return self.outline.blocks if self.config.measure.view == "block" else self.outline.layers

    def create_run(self) -> None:
        """Make the run's folder, with its config, where there is none."""
        self.run.create(self.config, _data_facts(self.data))

    def split(self, name: str) -> Split:
        """Return the train or test split, on the device."""
        split = self.data.train if name == "train" else self.data.test
        return Split(split.inputs.to(self.device, self.dtype), split.labels.to(self.device))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of training and of the features."""
        return torch.float64 if self.config.compute.dtype == "float64" else torch.float32

    def missing(self) -> list[tuple[int, str]]:
        """Return what the config asks for of which there is a snapshot and no record yet.

        Pairs of an epoch and train, test (the split that D is taken on) or robustness.
        """
        measure = self.config.measure
        have = {(record.epoch, record.split) for record in self.run.load_measure(measure)}
        last = [self.config.training.epochs]
        test = None if measure.test_every_snapshot else last if measure.test_epochs is None else measure.test_epochs
        wanted = {"train": measure.epochs, "test": test}
        robustness = self.config.robustness
        if robustness is not None:
            wanted[ROBUSTNESS] = last
            if self.run.has_robustness(robustness_id(robustness, measure)):
                have.add((last[0], ROBUSTNESS))
        return [
            (epoch, part)
            for epoch in self.run.snapshot_epochs()
            for part, epochs in wanted.items()
            if (epochs is None or epoch in epochs) and (epoch, part) not in have
        ]

    def measure_missing(self, mirror: Mirror | None) -> None:
        """Measure, record and mirror what is missing."""
        missing = self.missing()
        if not missing:
            return
        network = self.network()
        records = self.run.load_measure(self.config.measure)
        for epoch, part in missing:
            network.load_state_dict(self.run.load_snapshot(epoch))
            if part == ROBUSTNESS:
                self._perturb(network, mirror)
                continue
            records.append(self._measure_snapshot(network, epoch, part))
            self.run.save_measure(self.config.measure, records)
            if mirror:
                settings = identity_of_measure(self.config.measure)
                mirror.log_measure(measure_id(self.config.measure), settings, records[-1])

    def _perturb(self, network: nn.Module, mirror: Mirror | None) -> None:
        robustness, measure = self.config.robustness, self.config.measure
        assert robustness is not None
        dataset = self.config.dataset
        kept = slice(None) if dataset.channel is None else slice(dataset.channel, dataset.channel + 1)
        mean, std = (
            torch.tensor(values, dtype=self.dtype)[kept].to(self.device) for values in (dataset.mean, dataset.std)
        )
        train, test = self.split("train"), self.split("test")
        few = Split(test.inputs[: robustness.test_images], test.labels[: robustness.test_images])
        images = Images(train, mean, std), Images(few, mean, std)
        cells = measure_robustness(network, self.points, *images, robustness, measure)
        identity = robustness_id(robustness, measure)
        perturbed = Perturbed(identity_of_robustness(robustness, measure), cells)
        self.run.save_robustness(identity, perturbed)
        if mirror:
            mirror.log_robustness(identity, perturbed)

    def _measure_snapshot(self, network: nn.Module, epoch: int, name: str) -> LayerRecord:
        split, measure = self.split(name), self.config.measure
        separations = measure_separation(
            network,
            split.inputs,
            split.labels,
            self.points,
            batch_norm=measure.batch_norm,  # type: ignore[arg-type]
            batch_size=measure.batch_size,
            weighting=measure.weighting,  # type: ignore[arg-type]
            components=measure.components,
            principal_inputs=self.split("train").inputs,
            memory_limit=measure.memory_limit,
        )
        evaluation = evaluate(network, split.inputs, split.labels)
        return LayerRecord(
            epoch=epoch,
            split=name,
            layers=tuple(separations),
            fuzziness=tuple(value.fuzziness for value in separations.values()),
            rank=tuple(value.rank for value in separations.values()),
            classes=separations[INPUT].classes,
            loss=evaluation.loss,
            accuracy=evaluation.accuracy,
        )


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
            wanted = {job.run.path: job for job in jobs if not job.run.finished or job.missing()}
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
                    job.measure_missing(mirror)
    return [outcome_of(job, trained.get(job.run.path, 0)) for job in asked]


def outcome_of(job: Job, trained_epochs: int = 0) -> Outcome:
    """Return what has become of a job's run."""
    return Outcome(job.run, job.run.state()["state"], final_record(job.run, job.config), trained_epochs)


def split_into_populations(jobs: Sequence[Job]) -> tuple[list[list[Job]], list[Job]]:
    """Return the interrupted populations that the jobs belong to, whole and as they were, and the other jobs.

    A member that nobody asked for is taken from the store, with the paths and means of the one asked for.
    """
    by_path = {job.run.path: job for job in jobs}
    begun: dict[tuple[Path, ...], list[Job]] = {}
    fresh = []
    for job in by_path.values():
        paths = tuple(job.run.path.with_name(member) for member in job.run.population())
        if not paths:
            fresh.append(job)
        elif paths not in begun:
            begun[paths] = [by_path.get(path) or _from_store(path.name, job) for path in paths]
    return list(begun.values()), fresh


def _from_store(identity: str, asked: Job) -> Job:
    results = Path(asked.config.results)
    stored = from_plain(Run(results, identity).config())
    dataset = replace(stored.dataset, root=asked.config.dataset.root, source=asked.config.dataset.source)
    compute, tracking = asked.config.compute, asked.config.tracking
    config = replace(stored, dataset=dataset, compute=compute, tracking=tracking, results=asked.config.results)
    return prepare(config, asked.device)


def final_record(run: Run, config: Config, split: str = "train") -> LayerRecord | None:
    """Return a run's record after the last epoch under a config's measure, or None where there is none."""
    records = run.load_measure(config.measure)
    final = [record for record in records if (record.epoch, record.split) == (config.training.epochs, split)]
    return final[0] if final else None


def choose_device(name: str) -> torch.device:
    """Return the device a config names; raises ConfigError where the machine does not have it."""
    device = named_device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device={name}: not on this machine ({reason}); take cpu or auto") from None
    return device


def named_device(name: str) -> torch.device:
    """Return the device a config names, whether this machine has it or not; raises ConfigError for a name of none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"compute.device={name}: no such device; take auto, cpu or cuda") from None


def prepare(config: Config, device: torch.device | None = None) -> Job:
    """Return the job of a config; raises for whatever cannot be run.

    device: the config's, where it is known, or of another machine, which this one cannot try.
    """
    device = device or choose_device(config.compute.device)
    results = Path(config.results)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results={results}: {error.strerror}; name a folder that can be written to") from None
    data = _load_cached(_as_key(config.dataset))
    job = Job(config, Run(results, run_id(config, data.train.digest)), data, device)
    state = job.run.state()["state"]
    if state != "new":
        begun = job.run.config()
        if begun["data"]["test_digest"] != data.test.digest:
            raise ConfigError(f"run {job.run.id} was measured on another test set: name another results folder")
        # A run goes on with the snapshots it was begun with.
        training = replace(config.training, snapshots=begun["training"]["snapshots"])
        job = replace(job, config=replace(config, training=training))
    _refuse_what_the_network_cannot(job)
    _refuse_lone_images(job)
    if config.robustness is not None and config.measure.components is not None:
        raise ConfigError(
            f"measure.components={config.measure.components}: robustness is of whole features, give null here or there"
        )
    _refuse_epochs_not_kept(job.run, job.config, state)
    return job


def _data_facts(data: Data) -> dict[str, str | int]:
    return {
        "digest": data.train.digest,
        "test_digest": data.test.digest,
        "source": data.source,
        "train_images": len(data.train.labels),
        "test_images": len(data.test.labels),
    }


def _refuse_what_the_network_cannot(job: Job) -> None:
    """Raise ConfigError for images too small, a view or layers that the network does not have."""
    family = job.config.architecture.family
    if not job.points:
        raise ConfigError(f"measure.view=block: architecture.family={family} has no blocks, take measure.view=layer")
    layers = max(job.outline.parameter_layers())
    beyond = [phase.last for phase in job.config.training.phases if phase.last > layers]
    if beyond:
        raise ConfigError(
            f"training.phases: layer {beyond[0]} of a network with {layers} layers with weights; give 1 … {layers}"
        )
    learning = {layer for phase in job.config.training.phases for layer in range(phase.first, phase.last + 1)}
    idle = [layer for layer in range(1, layers + 1) if learning and layer not in learning]
    if idle:
        raise ConfigError(f"training.phases: layer {idle[0]} of {layers} learns in no phase; name it in one")


def _refuse_lone_images(job: Job) -> None:
    """Raise ConfigError where a last batch of one image would meet batch normalisation over the batch alone."""
    if not any(isinstance(module, nn.BatchNorm1d) for module in job.outline.modules()):
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
        if self.diverged:
            return
        self.epochs.append(epoch)
        self.diverged = epoch.diverged
        self.job.run.append_epoch(epoch)
        if self.mirror:
            self.mirror.log_epoch(epoch)

    def keep_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        if not self.diverged:
            self.job.run.save_snapshot(epoch, weights)

    def measure(self, epoch: int) -> None:
        if self.diverged:
            return
        try:
            self.job.measure_missing(self.mirror)
        except NotFinite:
            # The last update overflowed, which no loss has shown yet.
            self.diverged = True
            self.job.run.remove_snapshot(epoch)

    def end(self, seconds: float) -> None:
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
    # The mirrors are closed last: they tell how it ended.
    with ExitStack() as mirrors, ExitStack() as stack:
        stack.push(lambda kind, error, trace: _record_failure(jobs, error))
        courses = []
        for index, job in enumerate(jobs):
            epochs = [Epoch(*values) for values in checkpoint["epochs"][index]] if checkpoint else []
            # What was recorded after the checkpoint is trained, and recorded, again.
            job.run.save_epochs(epochs)
            job.run.write_state("running", machine=machine_facts(job.device) | engine, population=names)
            diverged = bool(checkpoint["diverged"][index]) if checkpoint else False
            courses.append(_Course(job, mirrors.enter_context(_mirrored(job)), epochs, diverged))
            facts = f"{run_title(to_plain(job.config))} ({job.data.source}; {job.device})"
            start = f"goes on after epoch {started_at}" if started_at else "starts"
            job.run.log(f"{start}, {index + 1} of {len(jobs)} in its population, {engine}: {facts}")
            observer.say(f"run {job.run.id}: {facts}" + (f", {start}" if started_at else ""))

        def save_checkpoint() -> None:
            for course in courses:
                course.job.run.confirm_held()
            leader.save_checkpoint(
                {
                    "members": names,
                    "population": population.state(),
                    "engine": engine,
                    "seconds": seconds,
                    "epochs": [[astuple(epoch) for epoch in course.epochs] for course in courses],
                    "diverged": [course.diverged for course in courses],
                }
            )

        def stop_if_wanted() -> None:
            if observer.wants_stop():
                save_checkpoint()
                raise Stopped(f"after epoch {population.epoch}")

        observer.begin(len(jobs), training.epochs, started_at)
        while True:
            if population.epoch in kept:
                for index, course in enumerate(courses):
                    course.keep_snapshot(population.epoch, population.weights(index))
            if population.epoch % jobs[0].config.compute.checkpoint_every == 0 and population.epoch > started_at:
                save_checkpoint()
            if population.epoch in kept:
                # Measuring may take longer than training: what it follows is safe by now, and a stop waits for one.
                for course in courses:
                    stop_if_wanted()
                    course.measure(population.epoch)
            if population.epoch == training.epochs or all(course.diverged for course in courses):
                break
            stop_if_wanted()
            clock = time.perf_counter()
            records = population.run_epoch()
            seconds += time.perf_counter() - clock
            for course, epoch in zip(courses, records, strict=True):
                course.record(epoch)
            observer.advance(records)
        for course in courses:
            course.end(seconds / len(courses))
        leader.remove_checkpoint()
    return population.epoch - started_at


def _build_population(jobs: Sequence[Job], engine: Mapping[str, Any]) -> tuple[list[Job], Population]:
    """Return the jobs with the means that an engine fixes, set for this process, and their untrained population."""
    stored = {name: engine[name] for name in ENGINE if name in engine}
    compute = replace(jobs[0].config.compute, **stored)
    jobs = [replace(job, config=replace(job.config, compute=compute)) for job in jobs]
    set_arithmetic(compute, jobs[0].device)
    splits = _shared_splits(jobs)
    members = [Member(job.network(), splits[job.run.id], job.config.optimizer, job.config.seed) for job in jobs]
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


def set_arithmetic(compute: Compute, device: torch.device) -> None:
    """Set for this process what of a config's means the bits of a result depend on: threads, TF32, determinism."""
    torch.set_num_threads(compute.threads)
    if device.type == "cuda":
        # cuBLAS reads it when it starts; without it, it has no algorithm that repeats.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = compute.tf32
        torch.use_deterministic_algorithms(compute.deterministic)


def _shared_splits(jobs: Sequence[Job]) -> dict[str, Split]:
    """Return each job's training split on its device, one object for all that train on the same tensors."""
    by_digest = {job.data.train.digest: job.split("train") for job in jobs}
    return {job.run.id: by_digest[job.data.train.digest] for job in jobs}


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


def _refuse_epochs_not_kept(run: Run, config: Config, state: str) -> None:
    """Raise ConfigError where a measure asks for epochs whose weights the run does not or will not keep."""
    if state == "diverged":
        return
    kept = run.snapshot_epochs() if state == "done" else config.training.kept_epochs()
    if state == "done" and config.training.epochs not in kept:
        raise DamagedRun(f"run {run.id} has lost its last snapshot: remove {run.path}, and it is trained again")
    for name, epochs in (("epochs", config.measure.epochs), ("test_epochs", config.measure.test_epochs)):
        absent = sorted(set(epochs or ()) - set(kept))
        if absent:
            whose = "training.snapshots keeps" if state == "new" else f"run {run.id} keeps"
            raise ConfigError(f"measure.{name}={epochs}: {whose} the epochs {sorted(kept)}, not {absent[0]}")


def _as_key(part: Any) -> str:
    """Return a part of a config as text, which caches can look up."""
    return json.dumps(to_plain(part), sort_keys=True)


@lru_cache(maxsize=256)
def _outline(architecture: str, input_shape: tuple[int, ...], classes: int) -> Network:
    return outline_network(architecture_from_plain(json.loads(architecture)), input_shape, classes)


@lru_cache(maxsize=256)
def _count_operations(architecture: str, input_shape: tuple[int, ...], classes: int) -> int:
    return forward_operations(architecture_from_plain(json.loads(architecture)), input_shape, classes)


def _load_cached(dataset: str) -> Data:
    loaded = _try_to_load(dataset)
    if isinstance(loaded, DataUnavailable):
        raise loaded
    return loaded


@lru_cache(maxsize=4)
def _try_to_load(dataset: str) -> Data | DataUnavailable:
    # A sweep's jobs share their data: what cannot be had is not looked for again for each of them.
    try:
        return load_data(Dataset(**json.loads(dataset)))
    except DataUnavailable as error:
        return error


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
