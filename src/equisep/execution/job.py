"""One config's run on its data and device: what of it is missing, what keeps it from being run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equisep.config import (
    Config,
    ConfigError,
    Dataset,
    architecture_from_plain,
    from_plain,
    identity_of_measure,
    identity_of_robustness,
    measure_id,
    robustness_id,
    run_id,
    to_plain,
)
from equisep.data import Data, DataUnavailable, Split, load_data
from equisep.execution.device import choose_device
from equisep.execution.tracking import Mirror
from equisep.measures import INPUT, LayerRecord, RobustnessResults, evaluate, measure_separation
from equisep.networks import (
    Network,
    build_network,
    forward_operations,
    gains_from_batching,
    outline_network,
    training_values,
)
from equisep.robustness import Images, measure_robustness
from equisep.store import ROBUSTNESS, DamagedRun, Outcome, Run, is_complete, missing_evaluations, outcome_of, run_title


@dataclass(frozen=True, eq=False)
class Job:
    """A run, the config that asks for it, and the data and device it is trained and measured on.

    Two jobs are never equal: several may ask for one run, under different measures.
    """

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
        return self._outlined[0]

    @cached_property
    def _outlined(self) -> tuple[Network, int]:
        return _outline(_as_key(self.config.architecture), *self._shape)

    @cached_property
    def operations(self) -> float:
        """Floating-point operations of the whole training: forward, and twice that backward, of every image."""
        return 3.0 * self._outlined[1] * len(self.data.train.labels) * self.config.training.epochs

    @property
    def _shape(self) -> tuple[tuple[int, ...], int]:
        return tuple(self.data.train.inputs.shape[1:]), len(self.data.classes)

    @cached_property
    def memory(self) -> int:
        """Bytes that a member of a population takes on its device while it trains."""
        values = training_values(self.outline, self._shape[0], self.config.training.batch_size)
        return values * self.dtype.itemsize

    @property
    def gains_from_batching(self) -> bool:
        """Whether networks like this one train faster together."""
        return gains_from_batching(self.outline)

    @property
    def shared_title(self) -> str:
        """What the members of a population have in common, for the user."""
        return run_title(to_plain(self.config)).rsplit(",", 2)[0]

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
        """Return the evaluations that the config asks for and which are not recorded yet; see store.status."""
        return missing_evaluations(self.run, self.config)

    @property
    def complete(self) -> bool:
        """Whether the run is trained and evaluated as the config asks."""
        return is_complete(self.run, self.config)

    def outcome(self, trained_epochs: int = 0) -> Outcome:
        """Return what has become of the run, which has ended; see store.status."""
        return outcome_of(self.run, self.config, trained_epochs)


def evaluate_missing(job: Job, mirror: Mirror | None) -> None:
    """Take, record and mirror the evaluations that a job asks for and which are not recorded yet.

    Raises NotFinite where the features of a snapshot are not finite.
    """
    missing = job.missing()
    if not missing:
        return
    network = job.network()
    measure = job.config.measure
    records = job.run.load_measure(measure)
    for epoch, part in missing:
        network.load_state_dict(job.run.load_snapshot(epoch))
        if part == ROBUSTNESS:
            _evaluate_robustness(job, network, mirror)
            continue
        records.append(_measure_snapshot(job, network, epoch, part))
        job.run.save_measure(measure, records)
        if mirror:
            mirror.log_measure(measure_id(measure), identity_of_measure(measure), records[-1])


def _measure_snapshot(job: Job, network: nn.Module, epoch: int, name: str) -> LayerRecord:
    split, measure = job.split(name), job.config.measure
    separations = measure_separation(
        network,
        split.inputs,
        split.labels,
        job.points,
        batch_norm=measure.batch_norm,  # type: ignore[arg-type]
        batch_size=measure.batch_size,
        weighting=measure.weighting,  # type: ignore[arg-type]
        components=measure.components,
        principal_inputs=job.split("train").inputs,
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


def _evaluate_robustness(job: Job, network: nn.Module, mirror: Mirror | None) -> None:
    robustness, measure, dataset = job.config.robustness, job.config.measure, job.config.dataset
    assert robustness is not None
    kept = slice(None) if dataset.channel is None else slice(dataset.channel, dataset.channel + 1)
    mean, std = (torch.tensor(values, dtype=job.dtype)[kept].to(job.device) for values in (dataset.mean, dataset.std))
    train, test = job.split("train"), job.split("test")
    few = Split(test.inputs[: robustness.test_images], test.labels[: robustness.test_images])
    images = Images(train, mean, std), Images(few, mean, std)
    results = measure_robustness(network, job.points, *images, robustness, measure)
    identity = robustness_id(robustness, measure)
    evaluation = RobustnessResults(identity_of_robustness(robustness, measure), results)
    job.run.save_robustness(identity, evaluation)
    if mirror:
        mirror.log_robustness(identity, evaluation)


def split_into_populations(jobs: Sequence[Job]) -> tuple[list[list[Job]], list[Job]]:
    """Return the interrupted populations that the jobs belong to, whole and as they were, and the other jobs.

    A member that nobody asked for is taken from the store, with the paths and execution settings of the one asked for.
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
def _outline(architecture: str, input_shape: tuple[int, ...], classes: int) -> tuple[Network, int]:
    """Return a network without its values, and the operations that one image takes forward."""
    outline = outline_network(architecture_from_plain(json.loads(architecture)), input_shape, classes)
    return outline, forward_operations(outline, input_shape)


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
