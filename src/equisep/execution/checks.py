"""What makes a config impossible for its network, its data or its run, refused before work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from equisep.config import Config, ConfigError, Measure, Optimizer, by_convention, require
from equisep.measures import batch_order
from equisep.networks import FeedForwardNetwork
from equisep.store import DamagedRun, Run
from equisep.training import build_optimizer

if TYPE_CHECKING:
    from equisep.execution.job import Job


def check_network(job: Job) -> None:
    """Raise ConfigError for images, an optimizer, a view or layers that do not fit the network."""
    family, phases = job.config.architecture.family, job.config.training.phases
    permuted(job.outline, job.config.measure)
    if job.config.optimizer.kind not in Optimizer.KINDS:
        build_optimizer(job.config.optimizer, list(job.outline.parameters()))
    remedy = "robustness needs images with a mean and standard deviation; set dataset.mean and std, or robustness=null"
    require(job.config.robustness is None or job.config.dataset.mean is not None, "dataset.mean", "null", remedy)
    remedy = f"architecture.family={family} has no blocks; set measure.view=layer"
    require(bool(job.points), "measure.view", "block", remedy)
    layers = max(job.outline.parameter_layers(), default=0)
    last = max((phase.last for phase in phases), default=1)
    remedy = f"must be at most {layers}, the network's number of layers with weights"
    require(last <= layers, "training.phases: last", last, remedy)
    trained = {layer for phase in phases for layer in range(phase.first, phase.last + 1)}
    untrained = [layer for layer in range(1, layers + 1) if trained and layer not in trained]
    if untrained:
        raise ConfigError(f"training.phases: layer {untrained[0]} of {layers} is not trained; add it to a phase")


def check_batches(job: Job) -> None:
    """Raise ConfigError for a last batch of one image where batches are normalised, and for an impossible order."""
    measures = [alone.measure for alone in by_convention(job.config)]
    # The stored order is always possible; reading thousands of labels for it would make looking up many runs slow.
    for measure in (measure for measure in measures if measure.order != "stored"):
        for split in (job.data.train, job.data.test):
            order_of(split.labels, measure)
    if not any(isinstance(module, nn.BatchNorm1d) for module in job.outline.modules()):
        return
    train, test = len(job.data.train.labels), len(job.data.test.labels)
    batches = [("training", job.config.training.batch_size, train)]
    normalised = [measure.batch_size for measure in measures if measure.batch_norm == "batch"]
    batches += [("measure", size, images) for size in normalised for images in (train, test)]
    for group, size, images in batches:
        reason = f"the last batch of {images} images would contain one image, too few for batch normalisation"
        require(images % size != 1, f"{group}.batch_size", size, f"{reason}; choose another size")


def order_of(labels: Tensor, measure: Measure) -> Tensor:
    """Return the order of images in a measure; raises ConfigError if there is none."""
    try:
        order: Any = measure.order
        return batch_order(labels, order, batch_size=measure.batch_size, seed=measure.order_seed).to(labels.device)
    except ValueError as error:
        raise ConfigError(f"measure.{error}") from None


def permuted(network: nn.Module, measure: Measure) -> nn.Module:
    """Return a network with its layers in the order of a measure; raises ConfigError if they have but one."""
    if measure.permutation_seed is None:
        return network
    seed, field = measure.permutation_seed, "measure.permutation_seed"
    require(isinstance(network, FeedForwardNetwork), field, seed, "permutes feed-forward networks; set null")
    try:
        return cast(FeedForwardNetwork, network).permuted(seed)
    except ValueError as error:
        raise ConfigError(f"{field}={seed}: {error}; set null") from None


def check_epochs(run: Run, config: Config, state: str) -> None:
    """Raise ConfigError if a measure requests epochs whose weights the run does not store or will not store."""
    if state == "diverged":
        return
    stored = run.snapshot_epochs() if state == "done" else config.training.kept_epochs()
    if state == "done" and config.training.epochs not in stored:
        raise DamagedRun(f"run {run.id} has lost its last snapshot: remove {run.path} to train it again")
    for alone in by_convention(config) if state == "done" else ():
        recorded = {record.epoch for record in run.load_measure(alone.measure) if record.split == "train"}
        wanted = config.training.kept_epochs() if alone.measure.epochs is None else alone.measure.epochs
        if gone := sorted(set(wanted) & set(config.training.kept_epochs()) - set(stored) - recorded):
            problem = f"run {run.id} has lost its snapshots of epochs {gone}, which are not measured as requested"
            raise DamagedRun(f"{problem}: set measure.epochs={sorted(stored)}, or remove {run.path} to train it again")
    source = "training.snapshots" if state == "new" else f"run {run.id}"
    for name, epochs in (("epochs", config.measure.epochs), ("test_epochs", config.measure.test_epochs)):
        remedy = f"choose from the epochs {sorted(stored)} of {source}"
        require(set(epochs or ()) <= set(stored), f"measure.{name}", epochs, remedy)
