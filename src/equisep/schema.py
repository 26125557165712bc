"""The typed configuration: every choice of a run, with its unit and range; the values stand in conf/.

Three kinds of choice, told apart by where they stand: science (architecture, dataset, optimizer,
training, seed) makes a run's identity, except the fields listed in ``NOT_SCIENCE``; ``measure`` makes
a measure's identity; compute, tracking and paths are means and nobody's identity.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

# Fields inside the science groups that do not change what a trained network is: where the data come
# from, the table a learning rate was looked up in, and which epochs' weights are kept.
NOT_SCIENCE = ("dataset.root", "dataset.source", "optimizer.learning_rates", "training.snapshots")

# Science fields that came after the first runs: at the value that those runs had they are left out of the identity.
ADDED_SCIENCE = {"dataset.label_seed": None}

# Fields of measure that choose what is measured or how fast, not how.
NOT_MEASURE = ("epochs", "test_epochs", "test_every_snapshot", "memory_limit")


# Kinds of perturbation: the fields of robustness that hold strengths.
ROBUSTNESS_KINDS = ("weights", "one_layer", "input_noise", "corruptions", "fgsm", "pgd")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line that names the field, the value and a remedy."""


def _require(valid: bool, name: str, value: object, remedy: str) -> None:
    if not valid:
        raise ConfigError(f"{name}={value}: {remedy}")


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _is_odd(value: int) -> bool:
    return value >= 1 and value % 2 == 1


def _require_blocks(blocks: Sequence[int]) -> None:
    usable = len(blocks) > 0 and min(blocks) >= 1
    _require(usable, "architecture.blocks", blocks, "give at least one block, of at least one convolution")


def _require_multiplier(multiplier: float) -> None:
    _require(1 / 8 <= multiplier <= 1, "architecture.width_multiplier", multiplier, "give a factor in 0.125 … 1")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, name, value, "choose one of " + ", ".join(allowed))


@dataclass
class Architecture:
    """What every family of networks has; the families are its subclasses."""

    family: str = MISSING
    """Name of the family: a file in equisep/networks."""


@dataclass
class FeedForward(Architecture):
    """Linear → BatchNorm → ReLU, some times, then a linear classifier."""

    ACTIVATIONS: ClassVar[tuple[str, ...]] = ("relu", "identity")
    depth: int | None = MISSING
    """Number of linear layers, the classifier included (the paper's H), ≥ 2; null where widths is given."""
    width: int | None = MISSING
    """Units of each hidden layer, ≥ 1; null where widths is given."""
    widths: list[int] | None = None
    """Units of each hidden layer, one by one, in place of depth and width."""
    batch_norm: bool = True
    """Whether each hidden layer is batch-normalised."""
    activation: str = "relu"
    """relu, or identity for a linear network."""

    def __post_init__(self) -> None:
        _one_of("architecture.family", self.family, ("fnn",))
        _one_of("architecture.activation", self.activation, self.ACTIVATIONS)
        if self.widths is not None:
            remedy = "it stands in place of depth and width, which architecture=fnn_widths leaves null"
            _require(self.depth is None and self.width is None, "architecture.widths", self.widths, remedy)
            usable = len(self.widths) > 0 and min(self.widths) >= 1
            _require(usable, "architecture.widths", self.widths, "give at least one layer, of at least 1 unit")
            return
        depth, width = self.depth, self.width
        _require(
            depth is not None and depth >= 2,
            "architecture.depth",
            depth,
            "a feed-forward network needs at least 2 layers",
        )
        _require(width is not None and width >= 1, "architecture.width", width, "a layer needs at least 1 unit")

    def hidden_widths(self) -> list[int]:
        """Return the units of each hidden layer."""
        if self.widths is not None:
            return list(self.widths)
        assert self.depth is not None
        assert self.width is not None
        return [self.width] * (self.depth - 1)


@dataclass
class Convolutional(Architecture):
    """What the convolutional families share: kernel size, repeated input channels, a factor on all widths."""

    kernel: int = MISSING
    """Height and width of the convolutions' kernels, odd, ≥ 1."""
    input_repeats: int = MISSING
    """How often the image's channels are repeated, ≥ 1."""
    width_multiplier: float = MISSING
    """Factor on the channels and hidden units, 1/8 … 1; below 1 it is not the paper's network."""

    def __post_init__(self) -> None:
        _require(_is_odd(self.kernel), "architecture.kernel", self.kernel, "give an odd size")
        _require(self.input_repeats >= 1, "architecture.input_repeats", self.input_repeats, "give at least 1")
        _require_multiplier(self.width_multiplier)


@dataclass
class Vgg(Convolutional):
    """VGG with batch normalisation: Conv → BatchNorm → ReLU in five stages, then a classifier of three layers."""

    DEPTHS: ClassVar[tuple[int, ...]] = (11, 13, 16, 19)
    depth: int = MISSING
    """Layers with weights: 11, 13, 16 or 19."""
    classifier_width: int = MISSING
    """Units of the two hidden layers of the classifier, ≥ 1."""

    def __post_init__(self) -> None:
        _one_of("architecture.family", self.family, ("vgg",))
        _require(self.depth in self.DEPTHS, "architecture.depth", self.depth, "VGG has 11, 13, 16 or 19 layers")
        _require(self.classifier_width >= 1, "architecture.classifier_width", self.classifier_width, "give at least 1")
        super().__post_init__()


@dataclass
class AlexNet(Convolutional):
    """AlexNet as the paper changes it: five convolutions of one kernel size, two hidden linear layers, BatchNorm."""

    classifier_width: int = MISSING
    """Units of the two hidden layers of the classifier, ≥ 1."""

    def __post_init__(self) -> None:
        _one_of("architecture.family", self.family, ("alexnet",))
        _require(self.classifier_width >= 1, "architecture.classifier_width", self.classifier_width, "give at least 1")
        super().__post_init__()


@dataclass
class ResNet(Architecture):
    """Residual blocks of one width, without stem and downsampling: its channels are the image's, repeated."""

    blocks: list[int] = MISSING
    """Convolutions of each block, ≥ 1."""
    kernels: list[int] = MISSING
    """Kernel size of each block, odd."""
    input_repeats: int = MISSING
    """How often the image's channels are repeated, ≥ 1: 8 makes 8 channels of a grey image."""

    def __post_init__(self) -> None:
        _one_of("architecture.family", self.family, ("resnet",))
        _require_blocks(self.blocks)
        fits = len(self.kernels) == len(self.blocks) and all(map(_is_odd, self.kernels))
        _require(fits, "architecture.kernels", self.kernels, "give an odd size for each of architecture.blocks")
        _require(self.input_repeats >= 1, "architecture.input_repeats", self.input_repeats, "give at least 1")


@dataclass
class DenseNet(Architecture):
    """Dense blocks, between them transitions that halve channels and image; our choice, the paper's is not known."""

    blocks: list[int] = MISSING
    """Convolutions of each dense block, ≥ 1."""
    growth: int = MISSING
    """Channels that each convolution adds, ≥ 1; the stem has twice as many."""
    kernel: int = MISSING
    """Height and width of the convolutions' kernels, odd, ≥ 1."""
    width_multiplier: float = MISSING
    """Factor on growth, 1/8 … 1."""

    def __post_init__(self) -> None:
        _one_of("architecture.family", self.family, ("densenet",))
        _require_blocks(self.blocks)
        _require(self.growth >= 1, "architecture.growth", self.growth, "give at least 1")
        _require(_is_odd(self.kernel), "architecture.kernel", self.kernel, "give an odd size")
        _require_multiplier(self.width_multiplier)


FAMILIES: dict[str, type[Architecture]] = {
    "fnn": FeedForward,
    "vgg": Vgg,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "densenet": DenseNet,
}


@dataclass
class Dataset:
    """Images, drawn and normalised once, held in memory."""

    SOURCES: ClassVar[tuple[str, ...]] = ("auto", "folder")
    name: str = MISSING
    """fashion_mnist, mnist or cifar10; with source=folder any name of a folder under root."""
    size: int = MISSING
    """Height and width after resizing, pixels, ≥ 1."""
    mean: list[float] = MISSING
    """Per channel, subtracted from intensities in 0 … 1; its length says grey (1) or colour (3)."""
    std: list[float] = MISSING
    """Per channel, divided by, > 0."""
    channel: int | None = None
    """The one channel kept (0 red, 1 green, 2 blue); null keeps all."""
    per_class: int | None = MISSING
    """Training images of each class, ≥ 1; null where sizes is given."""
    sizes: list[int] | None = None
    """Training images of each class, class by class, in place of per_class."""
    subset_seed: int = MISSING
    """Seed of the draw of the training subset."""
    label_seed: int | None = None
    """Seed of a random permutation of the training labels, which keeps the sizes of the classes; null: true labels."""
    source: str = MISSING
    """auto: files under root, else a download; folder: ROOT/NAME/{train,test}/CLASS/*.png and the like."""
    root: str = MISSING
    """Folder that holds the data sets."""

    def __post_init__(self) -> None:
        _one_of("dataset.source", self.source, self.SOURCES)
        _require(self.size >= 1, "dataset.size", self.size, "give a size in pixels, at least 1")
        _require(len(self.mean) in (1, 3), "dataset.mean", self.mean, "give one value (grey) or three (colour)")
        _require(all(map(math.isfinite, self.mean)), "dataset.mean", self.mean, "give finite values")
        fits = len(self.std) == len(self.mean) and all(map(_is_positive, self.std))
        _require(fits, "dataset.std", self.std, "give as many positive values as dataset.mean has")
        seeded = self.label_seed is None or 0 <= self.label_seed < 2**32
        _require(seeded, "dataset.label_seed", self.label_seed, "give 0 … 4294967295, or null for the true labels")
        in_range = self.channel is None or 0 <= self.channel < len(self.mean)
        _require(in_range, "dataset.channel", self.channel, f"choose 0 … {len(self.mean) - 1}, or null for all")
        if self.sizes is not None:
            remedy = "it stands in place of dataset.per_class: set one of the two to null"
            _require(self.per_class is None, "dataset.sizes", self.sizes, remedy)
            usable = len(self.sizes) > 1 and min(self.sizes) >= 1
            _require(usable, "dataset.sizes", self.sizes, "give at least 1 image for each of two or more classes")
            return
        drawn = self.per_class is not None and self.per_class >= 1
        _require(drawn, "dataset.per_class", self.per_class, "draw at least 1 image per class, or give dataset.sizes")


@dataclass
class Optimizer:
    """torch.optim's update rule and its settings."""

    KINDS: ClassVar[tuple[str, ...]] = ("sgd", "adam")
    kind: str = MISSING
    """sgd or adam."""
    learning_rate: float | None = None
    """Step size at epoch 0, > 0; null looks architecture.depth up in learning_rates."""
    learning_rates: dict[int, float] = field(default_factory=dict)
    """Depth to step size, for learning_rate=null. Not identity: the rate that was found is."""
    momentum: float = MISSING
    """Of sgd, ≥ 0 and below 1; 0 for none."""
    weight_decay: float = MISSING
    """L2 coefficient added to the gradient of every parameter, ≥ 0 (in Adam too: not AdamW)."""

    def __post_init__(self) -> None:
        _one_of("optimizer.kind", self.kind, self.KINDS)
        rate = self.learning_rate
        _require(
            rate is None or _is_positive(rate), "optimizer.learning_rate", rate, "give a positive, finite step size"
        )
        usable = all(map(_is_positive, self.learning_rates.values()))
        _require(usable, "optimizer.learning_rates", self.learning_rates, "give positive, finite step sizes")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "give a value in 0 … 1, 1 excluded")
        unused = self.kind == "adam" and self.momentum != 0
        _require(not unused, "optimizer.momentum", self.momentum, "adam has no momentum: leave it 0")
        _require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "give 0 or more")


@dataclass
class Phase:
    """A stretch of the training in which some layers learn and the others are held."""

    start: int = MISSING
    """Epoch at whose start the phase begins; it lasts until the next one's, or to the end."""
    first: int = MISSING
    """First layer that learns, counted from 1: layers with weights, in order, the classifier the last."""
    last: int = MISSING
    """Last layer that learns, ≥ first."""

    def __post_init__(self) -> None:
        _require(self.start >= 0, "training.phases: start", self.start, "give an epoch of 0 or more")
        in_order = 1 <= self.first <= self.last
        _require(in_order, "training.phases: first, last", f"{self.first}, {self.last}", "give 1 ≤ first ≤ last")


@dataclass
class Training:
    """Length and schedule of the training."""

    epochs: int = MISSING
    """Passes over the training set, ≥ 0 (0 leaves the initial network)."""
    batch_size: int = MISSING
    """Images a step, ≥ 2; the last, partial batch of an epoch is kept."""
    milestones: list[int] = MISSING
    """Epochs at whose start the learning rate is multiplied by decay, ascending."""
    decay: float = MISSING
    """Factor on the learning rate at each milestone, > 0."""
    phases: list[Phase] = field(default_factory=list)
    """Which layers learn when, by ascending start, from 0 on; empty: all of them throughout."""
    frozen_decay: bool = False
    """Whether weight decay moves held layers, as in the released code: they get zero gradients, not none."""
    snapshots: list[int] = MISSING
    """Epochs whose weights are kept (0: before training); those past the end are left out, the last is always kept."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "training.epochs", self.epochs, "give 0 or more")
        _require(self.batch_size >= 2, "training.batch_size", self.batch_size, "batch normalisation needs at least 2")
        ascending = sorted(set(self.milestones)) == list(self.milestones) and all(m > 0 for m in self.milestones)
        _require(ascending, "training.milestones", self.milestones, "give positive epochs in ascending order")
        _require(_is_positive(self.decay), "training.decay", self.decay, "give a positive factor")
        starts = [phase.start for phase in self.phases]
        ordered = not starts or (starts[0] == 0 and sorted(set(starts)) == starts)
        _require(ordered, "training.phases", f"starts {starts}", "give ascending starts, the first at epoch 0")
        _require(
            not starts or starts[-1] < max(self.epochs, 1),
            "training.phases",
            f"starts {starts}",
            f"the last lies behind training.epochs={self.epochs}",
        )
        needless = self.frozen_decay and not self.phases
        _require(not needless, "training.frozen_decay", True, "nothing is held without training.phases")
        _require(all(s >= 0 for s in self.snapshots), "training.snapshots", self.snapshots, "give epochs of 0 or more")

    def kept_epochs(self) -> tuple[int, ...]:
        """Return the epochs whose weights a run keeps, ascending, the last one included."""
        return tuple(sorted({e for e in self.snapshots if e <= self.epochs} | {self.epochs}))


@dataclass
class Measure:
    """How the separation fuzziness of each layer is taken from a snapshot."""

    BATCH_NORMS: ClassVar[tuple[str, ...]] = ("batch", "running")
    WEIGHTINGS: ClassVar[tuple[str, ...]] = ("class_size", "equal")
    VIEWS: ClassVar[tuple[str, ...]] = ("layer", "block")
    view: str = MISSING
    """Points of the law: layer (after each layer), or block (after each block, for networks that have blocks)."""
    components: int | None = None
    """Principal components of the training features that features are projected on where they have more; null: all."""
    batch_norm: str = MISSING
    """Statistics that batch normalisation uses: batch (of the measured batch) or running (as in evaluation)."""
    batch_size: int = MISSING
    """Images a forward pass, in stored order, ≥ 2."""
    weighting: str = MISSING
    """Weight of a class: class_size (n_k/n, the definition) or equal (1/K)."""
    epochs: list[int] | None = None
    """Snapshots measured on the training set; null measures every one the run kept. Not identity."""
    test_epochs: list[int] | None = None
    """Snapshots measured on the test set too; null measures the last one. Not identity."""
    test_every_snapshot: bool = False
    """Whether every snapshot is measured on the test set, in place of test_epochs. Not identity."""
    memory_limit: float = MISSING
    """GB; features of all layers up to this size are held for one pass, else two passes are made. Not identity."""

    def __post_init__(self) -> None:
        _one_of("measure.batch_norm", self.batch_norm, self.BATCH_NORMS)
        _one_of("measure.weighting", self.weighting, self.WEIGHTINGS)
        _one_of("measure.view", self.view, self.VIEWS)
        told_twice = self.test_every_snapshot and self.test_epochs is not None
        _require(not told_twice, "measure.test_epochs", self.test_epochs, "measure.test_every_snapshot takes them all")
        projected = self.components is None or self.components >= 1
        _require(projected, "measure.components", self.components, "give at least 1, or null for no projection")
        _require(self.batch_size >= 2, "measure.batch_size", self.batch_size, "batch normalisation needs at least 2")
        _require(self.memory_limit >= 0, "measure.memory_limit", self.memory_limit, "give GB, 0 or more")


@dataclass
class Robustness:
    """Perturbations of the trained network; a kind without strengths is left out."""

    weights: list[float] = MISSING
    """Strengths of Gaussian noise on the weights of all layers, each relative to the layer's norm, > 0."""
    one_layer: list[float] = MISSING
    """The same on one layer at a time: every layer with weights in turn, of which D of the last layer is taken."""
    input_noise: list[float] = MISSING
    """Standard deviations of Gaussian noise on the images, intensities of 0 … 1."""
    corruptions: list[float] = MISSING
    """Severities 0 … 1 of corruptions of the images: shot and impulse noise, blur, contrast, brightness, in turn."""
    fgsm: list[float] = MISSING
    """Radii of adversarial images by one step, largest change of a pixel, intensities of 0 … 1."""
    pgd: list[float] = MISSING
    """Radii of adversarial images by attack_steps steps from a random start."""
    draws: int = MISSING
    """Draws of each kind and strength, ≥ 1; FGSM has none to draw."""
    attack_steps: int = MISSING
    """Steps of PGD, ≥ 1."""
    attacked_training_draws: int = MISSING
    """Draws of PGD on the training images, of which D is taken, ≥ 1."""
    test_images: int = MISSING
    """Test images, the first so many, ≥ 1; all where there are fewer."""
    seed: int = MISSING
    """Of the draws, the same for every network; 0 … 2³²−1."""

    def __post_init__(self) -> None:
        for name in ROBUSTNESS_KINDS:
            strengths = getattr(self, name)
            usable = all(map(_is_positive, strengths)) and len(set(strengths)) == len(strengths)
            _require(
                usable, f"robustness.{name}", strengths, "give positive, finite strengths, each once, or [] for none"
            )
        for name in ("corruptions", "fgsm", "pgd"):
            bounded = max(getattr(self, name), default=0.0) <= 1
            _require(bounded, f"robustness.{name}", getattr(self, name), "give strengths above 0, up to 1")
        _require(
            any(getattr(self, name) for name in ROBUSTNESS_KINDS), "robustness", "no strengths", "give one, or null"
        )
        for name in ("draws", "attack_steps", "attacked_training_draws", "test_images"):
            _require(getattr(self, name) >= 1, f"robustness.{name}", getattr(self, name), "give at least 1")
        _require(0 <= self.seed < 2**32, "robustness.seed", self.seed, "give 0 … 4294967295")


@dataclass
class Compute:
    """Means: they change how fast a run is, not what it is."""

    COMPILES: ClassVar[tuple[str, ...]] = ("auto", "always", "never")
    DTYPES: ClassVar[tuple[str, ...]] = ("float32", "float64")
    device: str = MISSING
    """auto (a GPU where there is one), cpu, cuda, cuda:1, …"""
    threads: int = MISSING
    """CPU threads of a population, ≥ 1."""
    compile: str = MISSING
    """Kernels of feed-forward networks: auto (compiled where that pays), always or never."""
    dtype: str = MISSING
    """Of weights and activations: float32 or float64."""
    checkpoint_every: int = MISSING
    """Epochs between checkpoints, ≥ 1."""
    tf32: bool = False
    """Matrix products and convolutions of a GPU in TF32: faster, with ten bits of mantissa in place of 23."""
    deterministic: bool = True
    """On a GPU only algorithms that repeat bit for bit, some of them slower; a CPU repeats anyway."""

    def __post_init__(self) -> None:
        _one_of("compute.compile", self.compile, self.COMPILES)
        _one_of("compute.dtype", self.dtype, self.DTYPES)
        _require(self.threads >= 1, "compute.threads", self.threads, "give at least 1")
        _require(self.checkpoint_every >= 1, "compute.checkpoint_every", self.checkpoint_every, "give at least 1")


@dataclass
class Tracking:
    """The mirror of each run in wandb."""

    MODES: ClassVar[tuple[str, ...]] = ("offline", "online", "off")
    mode: str = MISSING
    """offline (files under results/wandb, to sync later), online (needs `wandb login`) or off."""
    project: str = MISSING
    """wandb project."""
    entity: str | None = None
    """wandb user or team; null for the account's default."""

    def __post_init__(self) -> None:
        _one_of("tracking.mode", self.mode, self.MODES)


@dataclass
class Config:
    """One run and what is done with it."""

    architecture: Architecture = MISSING
    """The network."""
    dataset: Dataset = MISSING
    """What it learns."""
    optimizer: Optimizer = MISSING
    """How weights are updated."""
    training: Training = MISSING
    """How long, at which rates."""
    measure: Measure = MISSING
    """How D is taken. A measure's identity."""
    robustness: Robustness | None = None
    """Perturbations under which the trained network is measured as well; null: none. An identity of its own."""
    compute: Compute = MISSING
    """Means. Not identity."""
    tracking: Tracking = MISSING
    """The mirror in wandb. Not identity."""
    seed: int = MISSING
    """Moves initialisation and data order; 0 … 2³²−1."""
    experiment: str | None = None
    """Name of the experiment that asked for the run; its group in wandb. Not identity."""
    results: str = MISSING
    """Folder of everything made: runs, figures, tables, wandb. Not identity."""

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "give 0 … 4294967295")
        _require(self.results != "", "results", "''", "name a folder")


def conf_folder() -> Path:
    """Return the folder of the configuration: in the installed package, or beside src in a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def register() -> None:
    """Make the schema known to Hydra; the files in conf/ name its nodes in their defaults."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for family, node in FAMILIES.items():
        store.store(group="architecture", name=f"schema_{family}", node=node)


def compose_config(overrides: Sequence[str]) -> Config:
    """Return the config that ``python -m equisep OVERRIDES…`` composes; raises as :func:`typed`, or Hydra's error."""
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return typed(compose("config", list(overrides)))


def typed(composed: DictConfig) -> Config:
    """Return the composed Hydra config as the typed, checked Config.

    Raises ConfigError in one line for a key the schema does not know (also one added with ``+``), a
    value out of range, a missing value, or a learning rate the table of the optimizer does not hold.
    """
    _refuse_unknown_keys(composed, "")
    try:
        config = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: a value is missing, give {error.full_key}=…") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    assert isinstance(config, Config)
    if config.optimizer.learning_rate is None:
        config.optimizer.learning_rate = _look_up_learning_rate(config)
    return config


def identity_of_science(config: Config) -> dict[str, Any]:
    """Return the part of the config that makes a run's identity, as plain containers."""
    plain = to_plain(config)
    science = {name: plain[name] for name in ("architecture", "dataset", "optimizer", "training", "seed")}
    for name in NOT_SCIENCE:
        group, key = name.split(".")
        del science[group][key]
    for name, before in ADDED_SCIENCE.items():
        group, key = name.split(".")
        if science[group][key] == before:
            del science[group][key]
    return science


def identity_of_measure(config: Measure) -> dict[str, Any]:
    """Return the part of a measure's config that makes its identity, as plain containers."""
    plain = to_plain(config)
    for name in NOT_MEASURE:
        del plain[name]
    return plain


def identity_of_robustness(config: Robustness, measure: Measure) -> dict[str, Any]:
    """Return the identity of a measure of robustness: its config, and how D is taken."""
    return to_plain(config) | {"measure": identity_of_measure(measure)}


def to_plain(config: Any) -> dict[str, Any]:
    """Return a typed config as plain dicts and lists."""
    return asdict(config)


def from_plain(plain: dict[str, Any]) -> Config:
    """Return the config that a run's config.yaml holds; keys that are no config are left out."""
    kinds: dict[str, type] = {
        "dataset": Dataset,
        "optimizer": Optimizer,
        "training": Training,
        "measure": Measure,
        "compute": Compute,
        "tracking": Tracking,
    }
    groups: dict[str, Any] = {name: _from_plain(kind, plain[name]) for name, kind in kinds.items()}
    groups["architecture"] = architecture_from_plain(plain["architecture"])
    perturbations = plain.get("robustness")
    groups["robustness"] = _from_plain(Robustness, perturbations) if perturbations else None
    return Config(**groups, **{name: plain[name] for name in ("seed", "experiment", "results")})


def architecture_from_plain(plain: dict[str, Any]) -> Architecture:
    """Return the architecture of its family that plain containers hold."""
    architecture: Architecture = _from_plain(FAMILIES[plain["family"]], plain)
    return architecture


def _from_plain(kind: type, plain: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), plain))


def _refuse_unknown_keys(node: DictConfig, path: str) -> None:
    node_type = OmegaConf.get_type(node)
    if node_type is None or not is_dataclass(node_type):
        return
    known = [f.name for f in fields(node_type)]
    for key in map(str, node):
        name = f"{path}{key}"
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {path}{close[0]}?" if close else "known: " + ", ".join(known)
            raise ConfigError(f"{name}: no such key, {hint}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            _refuse_unknown_keys(child, f"{name}.")


def _look_up_learning_rate(config: Config) -> float:
    depth, rates = getattr(config.architecture, "depth", None), config.optimizer.learning_rates
    if depth is None:
        family = config.architecture.family
        raise ConfigError(f"optimizer.learning_rate: none is known for architecture.family={family}, give one")
    if depth not in rates:
        table = ", ".join(f"{known}: {rate:g}" for known, rate in rates.items())
        raise ConfigError(
            f"architecture.depth={depth}: no rate in optimizer.learning_rates ({table}), give optimizer.learning_rate=…"
        )
    return rates[depth]


def explain(error: Exception) -> str:
    """Return a composition error of Hydra or OmegaConf, and what caused it, as one line."""
    told = []
    link: BaseException | None = error
    while link is not None:
        lines = [line.strip() for line in str(link).splitlines()]
        told += [line.rstrip(".") for line in lines if line and not line.startswith(_DETAILS)]
        link = link.__cause__
    return "; ".join(dict.fromkeys(told)).replace(":;", ":")


# Lines of Hydra's and OmegaConf's messages that help their developers only, or would mislead.
_DETAILS = ("full_key", "object_type", "reference_type", "To append", "Config search path", "provider=", "See https")
