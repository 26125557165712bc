"""The validate_config configuration of a run: every choice with its unit and range; the values stand in conf/.

Three kinds of groups: architecture, dataset, optimizer, training and seed make a run's identity; measure and robustness
that of an evaluation beneath the run; compute, tracking and paths are execution settings and nobody's identity
(see equisep.config.identity).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from equisep.config.architectures import Architecture
from equisep.config.validation import is_positive, require, require_one_of

# Kinds of perturbation: the fields of robustness that hold strengths.
ROBUSTNESS_KINDS = ("weights", "one_layer", "input_noise", "corruptions", "fgsm", "pgd")


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
        require_one_of("dataset.source", self.source, self.SOURCES)
        require(self.size >= 1, "dataset.size", self.size, "give a size in pixels, at least 1")
        require(len(self.mean) in (1, 3), "dataset.mean", self.mean, "give one value (grey) or three (colour)")
        require(all(map(math.isfinite, self.mean)), "dataset.mean", self.mean, "give finite values")
        fits = len(self.std) == len(self.mean) and all(map(is_positive, self.std))
        require(fits, "dataset.std", self.std, "give as many positive values as dataset.mean has")
        seeded = self.label_seed is None or 0 <= self.label_seed < 2**32
        require(seeded, "dataset.label_seed", self.label_seed, "give 0 … 4294967295, or null for the true labels")
        in_range = self.channel is None or 0 <= self.channel < len(self.mean)
        require(in_range, "dataset.channel", self.channel, f"choose 0 … {len(self.mean) - 1}, or null for all")
        if self.sizes is not None:
            remedy = "it stands in place of dataset.per_class: set one of the two to null"
            require(self.per_class is None, "dataset.sizes", self.sizes, remedy)
            usable = len(self.sizes) > 1 and min(self.sizes) >= 1
            require(usable, "dataset.sizes", self.sizes, "give at least 1 image for each of two or more classes")
            return
        drawn = self.per_class is not None and self.per_class >= 1
        require(drawn, "dataset.per_class", self.per_class, "draw at least 1 image per class, or give dataset.sizes")


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
        require_one_of("optimizer.kind", self.kind, self.KINDS)
        rate = self.learning_rate
        require(rate is None or is_positive(rate), "optimizer.learning_rate", rate, "give a positive, finite step size")
        usable = all(map(is_positive, self.learning_rates.values()))
        require(usable, "optimizer.learning_rates", self.learning_rates, "give positive, finite step sizes")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "give a value in 0 … 1, 1 excluded")
        unused = self.kind == "adam" and self.momentum != 0
        require(not unused, "optimizer.momentum", self.momentum, "adam has no momentum: leave it 0")
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "give 0 or more")


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
        require(self.start >= 0, "training.phases: start", self.start, "give an epoch of 0 or more")
        in_order = 1 <= self.first <= self.last
        require(in_order, "training.phases: first, last", f"{self.first}, {self.last}", "give 1 ≤ first ≤ last")


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
        require(self.epochs >= 0, "training.epochs", self.epochs, "give 0 or more")
        require(self.batch_size >= 2, "training.batch_size", self.batch_size, "batch normalisation needs at least 2")
        ascending = sorted(set(self.milestones)) == list(self.milestones) and all(m > 0 for m in self.milestones)
        require(ascending, "training.milestones", self.milestones, "give positive epochs in ascending order")
        require(is_positive(self.decay), "training.decay", self.decay, "give a positive factor")
        starts = [phase.start for phase in self.phases]
        ordered = not starts or (starts[0] == 0 and sorted(set(starts)) == starts)
        require(ordered, "training.phases", f"starts {starts}", "give ascending starts, the first at epoch 0")
        require(
            not starts or starts[-1] < max(self.epochs, 1),
            "training.phases",
            f"starts {starts}",
            f"the last lies behind training.epochs={self.epochs}",
        )
        needless = self.frozen_decay and not self.phases
        require(not needless, "training.frozen_decay", True, "nothing is held without training.phases")
        require(all(s >= 0 for s in self.snapshots), "training.snapshots", self.snapshots, "give epochs of 0 or more")

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
        require_one_of("measure.batch_norm", self.batch_norm, self.BATCH_NORMS)
        require_one_of("measure.weighting", self.weighting, self.WEIGHTINGS)
        require_one_of("measure.view", self.view, self.VIEWS)
        told_twice = self.test_every_snapshot and self.test_epochs is not None
        require(not told_twice, "measure.test_epochs", self.test_epochs, "measure.test_every_snapshot takes them all")
        projected = self.components is None or self.components >= 1
        require(projected, "measure.components", self.components, "give at least 1, or null for no projection")
        require(self.batch_size >= 2, "measure.batch_size", self.batch_size, "batch normalisation needs at least 2")
        require(self.memory_limit >= 0, "measure.memory_limit", self.memory_limit, "give GB, 0 or more")


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
            usable = all(map(is_positive, strengths)) and len(set(strengths)) == len(strengths)
            require(
                usable, f"robustness.{name}", strengths, "give positive, finite strengths, each once, or [] for none"
            )
        for name in ("corruptions", "fgsm", "pgd"):
            bounded = max(getattr(self, name), default=0.0) <= 1
            require(bounded, f"robustness.{name}", getattr(self, name), "give strengths above 0, up to 1")
        require(
            any(getattr(self, name) for name in ROBUSTNESS_KINDS), "robustness", "no strengths", "give one, or null"
        )
        for name in ("draws", "attack_steps", "attacked_training_draws", "test_images"):
            require(getattr(self, name) >= 1, f"robustness.{name}", getattr(self, name), "give at least 1")
        require(0 <= self.seed < 2**32, "robustness.seed", self.seed, "give 0 … 4294967295")


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
        require_one_of("compute.compile", self.compile, self.COMPILES)
        require_one_of("compute.dtype", self.dtype, self.DTYPES)
        require(self.threads >= 1, "compute.threads", self.threads, "give at least 1")
        require(self.checkpoint_every >= 1, "compute.checkpoint_every", self.checkpoint_every, "give at least 1")


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
        require_one_of("tracking.mode", self.mode, self.MODES)


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
        require(0 <= self.seed < 2**32, "seed", self.seed, "give 0 … 4294967295")
        require(self.results != "", "results", "''", "name a folder")
