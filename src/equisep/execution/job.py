"""A config's run on its data and device: what is still missing, and what makes it impossible."""

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
    architecture_from_plain,
    dataset_from_plain,
    from_plain,
    identity_of_measure,
    identity_of_robustness,
    measure_id,
    not_writable,
    require,
    require_extra,
    robustness_id,
    run_id,
    to_plain,
)
from equisep.data import Data, DataUnavailable, Split, load_data
from equisep.execution.checks import check_batches, check_epochs, check_network, order_of, permuted
from equisep.execution.device import choose_device
from equisep.execution.tracking import Mirror
from equisep.measures import (
    INPUT,
    LOSSES,
    Evaluation,
    LayerRecord,
    RobustnessResults,
    choose_layers,
    evaluate,
    measure_separation,
)
from equisep.networks import (
    Network,
    build_network,
    forward_operations,
    gains_from_batching,
    outline_network,
    training_values,
)
from equisep.robustness import Images, measure_robustness
from equisep.store import ROBUSTNESS, Outcome, Run, is_complete, missing_evaluations, outcome_of, run_title
from equisep.training import Kernels, follows_protocol, kernels_of

# Images of a batch from which, and channels up to which, the native engine trains convolutions faster than torch
# (benchmarks/convolutions.py).
MIN_IMAGES, MAX_CHANNELS = 64, 64


@dataclass(frozen=True, eq=False)
class Job:
    """A run, the config that requests it, and the data and device for training and measuring.

    Jobs compare by identity: several may request one run, with different measures.
    """

    config: Config
    run: Run
    data: Data
    device: torch.device

    def network(self) -> nn.Module:
        """Return the freshly initialised network, on the device."""
        network = build_network(self.config.architecture, *self.shape, self.config.seed)
        return network.to(self.device, self.dtype)

    @property
    def outline(self) -> Network:
        """The network without its values: names and shapes; one object shared by all jobs of an architecture."""
        return _outline(_as_key(self.config.architecture), *self.shape)

    @cached_property
    def operations(self) -> float:
        """Floating-point operations of the whole training: the forward pass of every image, and twice that backward."""
        forward = _count_operations(_as_key(self.config.architecture), *self.shape)
        return 3.0 * forward * len(self.data.train.labels) * self.config.training.epochs

    @property
    def shape(self) -> tuple[tuple[int, ...], int]:
        """The shape of an image and the number of classes."""
        return tuple(self.data.train.inputs.shape[1:]), len(self.data.classes)

    @cached_property
    def memory(self) -> int:
        """Bytes that a member of a population needs on its device during training."""
        values = training_values(self.outline, self.shape[0], self.config.training.batch_size)
        return values * self.dtype.itemsize

    @property
    def gains_from_batching(self) -> bool:
        """Whether networks like this one train faster together; with other rules than the paper's they do not."""
        return self.follows_protocol and gains_from_batching(self.outline)

    @property
    def follows_protocol(self) -> bool:
        """Whether optimizer and loss are the paper's, which all engines know."""
        return follows_protocol(self.config.optimizer, self.config.training)

    @property
    def native_kernels(self) -> Kernels | None:
        """The kernels that train this run by itself on one core, where they can be compiled; None if there are none."""
        compute, kernels = self.config.compute, kernels_of(self.outline)
        if self.device.type != "cpu" or compute.engine == "batched" or not self.follows_protocol:
            return None
        # With several threads, few images in a batch or many channels, convolutions are as fast in the plain module.
        channels = [module.out_channels for module in self.outline.modules() if isinstance(module, nn.Conv2d)]
        batch = self.config.training.batch_size
        fast = compute.threads == 1 and batch >= MIN_IMAGES and max(channels, default=0) <= MAX_CHANNELS
        return kernels if fast or compute.engine == "native" or kernels is Kernels.FEED_FORWARD else None

    @property
    def population_key(self) -> str:
        """What the members of a population must share: shapes, schedule, execution settings."""
        plain = to_plain(self.config)
        del plain["dataset"]["subset_seed"]
        for name in ("mean", "std"):
            plain["dataset"][name] = len(plain["dataset"][name] or ())
        shared = ("architecture", "dataset", "training", "compute", "results")
        return json.dumps({name: plain[name] for name in shared}, sort_keys=True)

    @property
    def optimizer_key(self) -> str:
        """The optimizer's settings, equal for jobs with equal ones."""
        return _as_key(self.config.optimizer)

    @property
    def shared_title(self) -> str:
        """The title that the members of a population have in common, for the user."""
        return run_title(to_plain(self.config)).rsplit(",", 2)[0]

    @property
    def points(self) -> tuple[str, ...]:
        """The modules whose outputs are the points of the law after the input, under the measure's view."""
        return self.outline.blocks if self.config.measure.view == "block" else self.outline.layers

    def create_run(self) -> None:
        """Create the run's folder with its config, if there is none; raises ConfigError if it cannot be written."""
        train, test = self.data.train, self.data.test
        facts: dict[str, str | int] = {"digest": train.digest, "test_digest": test.digest, "source": self.data.source}
        facts |= {"train_images": len(train.labels), "test_images": len(test.labels)}
        try:
            self.run.create(self.config, facts)
        except OSError as error:
            raise not_writable(self.config.results, error) from None

    def split(self, name: str) -> Split:
        """Return the train or test split, on the device."""
        split = self.data.train if name == "train" else self.data.test
        return Split(split.inputs.to(self.device, self.dtype), split.labels.to(self.device))

    def measured_split(self, name: str) -> Split:
        """Return the train or test split in the order of the measure, on the device."""
        split, measure = self.split(name), self.config.measure
        if measure.order == "stored":
            return split
        order = order_of(split.labels, measure)
        return Split(split.inputs[order], split.labels[order])

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of training and of the features."""
        return torch.float64 if self.config.compute.dtype == "float64" else torch.float32

    def missing(self) -> list[tuple[int, str, Config]]:
        """Return the requested evaluations that are not recorded yet; see :func:`missing_evaluations`."""
        return missing_evaluations(self.run, self.config)

    @property
    def complete(self) -> bool:
        """Whether the run is trained and evaluated as the config requests."""
        return is_complete(self.run, self.config)

    def outcome(self, trained_epochs: int | None = 0) -> Outcome:
        """Return the outcome of the run, which has ended."""
        return outcome_of(self.run, self.config, trained_epochs)


def evaluate_missing(job: Job, mirror: Mirror | None) -> None:
    """Compute, record and mirror the requested evaluations of a job that are not recorded yet.

    Raises NotFinite if the features of a snapshot are not finite.
    """
    missing = job.missing()
    if not missing:
        return
    network = _network_for_snapshots(_as_key(job.config.architecture), *job.shape, job.device, job.dtype)
    # Loss and accuracy in evaluation mode are the same under every measure.
    known = {
        (record.epoch, record.split): Evaluation(record.loss, record.accuracy)
        for measurement in job.run.load_measures().values()
        for record in measurement.records
    }
    loaded = None
    for epoch, part, config in missing:
        if epoch != loaded:
            network.load_state_dict(job.run.load_snapshot(epoch))
            loaded = epoch
        alone = replace(job, config=config)
        if part == ROBUSTNESS:
            _evaluate_robustness(alone, network, mirror)
            continue
        record = _measure_snapshot(alone, network, epoch, part, known.get((epoch, part)))
        known[epoch, part] = Evaluation(record.loss, record.accuracy)
        job.run.save_measure(config.measure, [*job.run.load_measure(config.measure), record])
        if mirror:
            mirror.log_measure(measure_id(config.measure), identity_of_measure(config.measure), record)


def _measure_snapshot(
    job: Job, network: nn.Module, epoch: int, name: str, evaluation: Evaluation | None
) -> LayerRecord:
    split, measure = job.measured_split(name), job.config.measure
    separations = measure_separation(
        permuted(network, measure),
        split.inputs,
        split.labels,
        job.points,
        batch_norm=measure.batch_norm,  # type: ignore[arg-type]
        batch_size=measure.batch_size,
        weighting=measure.weighting,  # type: ignore[arg-type]
        components=measure.components,
        principal_inputs=job.measured_split("train").inputs,
        memory_limit=measure.memory_limit,
    )
    evaluation = evaluation or evaluate(network, split.inputs, split.labels, LOSSES[job.config.training.loss])
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
    channels = slice(None) if dataset.channel is None else slice(dataset.channel, dataset.channel + 1)
    scale = [torch.tensor(values, dtype=job.dtype)[channels].to(job.device) for values in (dataset.mean, dataset.std)]
    train, test = job.measured_split("train"), job.split("test")
    subset = Split(test.inputs[: robustness.test_images], test.labels[: robustness.test_images])
    images = Images(train, *scale), Images(subset, *scale)
    results = measure_robustness(network, job.points, *images, robustness, measure)
    identity = robustness_id(robustness, measure)
    evaluation = RobustnessResults(identity_of_robustness(robustness, measure), results)
    job.run.save_robustness(identity, evaluation)
    if mirror:
        mirror.log_robustness(identity, evaluation)


def split_into_populations(jobs: Sequence[Job]) -> tuple[list[list[Job]], list[Job]]:
    """Return the interrupted populations that the jobs belong to, complete and in their order, and the other jobs.

    A member without a job is loaded from the store, with the paths and execution settings of a member with one.
    """
    by_path = {job.run.path: job for job in jobs}
    interrupted: dict[tuple[Path, ...], list[Job]] = {}
    fresh = []
    for job in by_path.values():
        paths = tuple(job.run.path.with_name(member) for member in job.run.population())
        if not paths:
            fresh.append(job)
        elif paths not in interrupted:
            interrupted[paths] = [by_path.get(path) or _from_store(path.name, job) for path in paths]
    return list(interrupted.values()), fresh


def _from_store(identity: str, partner: Job) -> Job:
    config = partner.config
    stored = from_plain(Run(Path(config.results), identity).config())
    dataset = replace(stored.dataset, root=config.dataset.root, source=config.dataset.source)
    stored = replace(stored, dataset=dataset, compute=config.compute, tracking=config.tracking, results=config.results)
    return prepare(stored, partner.device)


def prepare(config: Config, device: torch.device | None = None) -> Job:
    """Return the job of a config; raises ConfigError, DataUnavailable or DamagedRun if it cannot be run.

    device: None for the config's on this machine; given where it is already known, or on another machine.
    """
    device = device or choose_device(config.compute.device)
    results = Path(config.results)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(config.results, error) from None
    data = _load_data(_as_key(config.dataset))
    if isinstance(data, DataUnavailable):
        raise data
    job = Job(config, Run(results, run_id(config, data.train.digest)), data, device)
    state = job.run.state()["state"]
    if state != "new":
        stored = job.run.config()
        if stored["data"]["test_digest"] != data.test.digest:
            raise ConfigError(f"run {job.run.id} was measured on another test set; set another results folder")
        # A run keeps the snapshots that it was started with.
        training = replace(config.training, snapshots=stored["training"]["snapshots"])
        job = replace(job, config=replace(config, training=training))
    check_network(job)
    check_batches(job)
    remedy = f"has no kernels for family={config.architecture.family} on {job.device}"
    possible = config.compute.engine != "native" or job.native_kernels is not None
    require(possible, "compute.engine", "native", f"{remedy}; set auto")
    if config.robustness is not None:
        whole = config.measure.components is None
        remedy = "robustness needs unprojected features; set measure.components=null or robustness=null"
        require(whole, "measure.components", config.measure.components, remedy)
        if config.robustness.fgsm or config.robustness.pgd:
            require_extra("foolbox", "robustness", "robustness.fgsm, robustness.pgd")
    check_epochs(job.run, job.config, state)
    return job


def _as_key(part: Any) -> str:
    """Return a part of a config as text, usable as the key of a cache."""
    return json.dumps(to_plain(part), sort_keys=True)


@lru_cache(maxsize=256)
def _outline(architecture: str, input_shape: tuple[int, ...], classes: int) -> Network:
    return outline_network(architecture_from_plain(json.loads(architecture)), input_shape, classes, choose_layers)


@lru_cache(maxsize=1)
def _network_for_snapshots(
    architecture: str, input_shape: tuple[int, ...], classes: int, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Return a network of an architecture whose values are to be loaded; the runs of a population share it."""
    network = build_network(architecture_from_plain(json.loads(architecture)), input_shape, classes, seed=0)
    return network.to(device, dtype)


@lru_cache(maxsize=256)
def _count_operations(architecture: str, input_shape: tuple[int, ...], classes: int) -> int:
    return forward_operations(_outline(architecture, input_shape, classes), input_shape)


@lru_cache(maxsize=4)
def _load_data(dataset: str) -> Data | DataUnavailable:
    """Return a data set, or why it is unavailable; both are cached, since a sweep's jobs share their data."""
    try:
        return load_data(dataset_from_plain(json.loads(dataset)))
    except DataUnavailable as error:
        return error
