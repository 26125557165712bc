"""Typed configuration of a run: every field with its unit and range; the values are in conf/.

There are three kinds of groups. architecture, dataset, optimizer, training and seed make up the identity of a run;
measure and robustness that of an evaluation of the run; compute, tracking and paths are execution settings and part of
no identity (see equisep.config.identity).
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from equisep.config.architectures import Architecture
from equisep.config.datasets import Dataset
from equisep.config.validation import is_positive, require, require_at_least, require_one_of

# Kinds of perturbation: the fields of Robustness that list strengths.
ROBUSTNESS_KINDS = ("weights", "one_layer", "input_noise", "corruptions", "fgsm", "pgd")


@dataclass
class Optimizer:
    """Update rule of torch.optim and its settings."""

    KINDS: ClassVar[tuple[str, ...]] = ("sgd", "adam")
    # Arguments of torch.optim that have fields of their own.
    FIELDS: ClassVar[dict[str, str]] = {"lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}
    kind: str = MISSING
    """sgd, adam, or the name of another class of torch.optim, such as AdamW."""
    learning_rate: float | None = None
    """Learning rate at epoch 0, > 0; null looks up architecture.depth in learning_rates."""
    learning_rates: dict[int, float] = field(default_factory=dict)
    """Learning rate by depth, for learning_rate=null. Not part of the identity; the rate looked up is."""
    momentum: float = MISSING
    """Momentum of sgd, ≥ 0 and below 1; 0 for none."""
    weight_decay: float = MISSING
    """Coefficient of the L2 term in the gradient of every parameter, ≥ 0 (also for Adam: not AdamW); of another class
    what it makes of it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of a class of torch.optim other than sgd and adam."""

    def __post_init__(self) -> None:
        own = self.kind not in self.KINDS
        named = not own or (self.kind.isidentifier() and self.kind[0].isupper())
        remedy = "choose one of sgd, adam, or a class of torch.optim by its name, such as AdamW"
        require(named, "optimizer.kind", self.kind, remedy)
        remedy = "takes no further arguments here; name the class of torch.optim, such as Adam or SGD"
        require(own or not self.arguments, "optimizer.arguments", self.arguments, f"{self.kind} {remedy}")
        for name in set(self.FIELDS) & set(self.arguments):
            given = f"optimizer.arguments.{name}"
            require(False, given, self.arguments[name], f"set optimizer.{self.FIELDS[name]}")
        rate = self.learning_rate
        require(rate is None or is_positive(rate), "optimizer.learning_rate", rate, "must be positive and finite")
        usable = all(map(is_positive, self.learning_rates.values()))
        require(usable, "optimizer.learning_rates", self.learning_rates, "must be positive and finite")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "must be at least 0 and below 1")
        unused = self.kind == "adam" and self.momentum != 0
        require(not unused, "optimizer.momentum", self.momentum, "adam has no momentum; set 0")
        require(
            0 <= self.weight_decay < math.inf,
            "optimizer.weight_decay",
            self.weight_decay,
            "must be finite and at least 0",
        )


@dataclass
class Phase:
    """A phase of training in which some layers are trained and the others are frozen."""

    start: int = MISSING
    """First epoch of the phase, from 0; it lasts until the next phase or the end of training."""
    first: int = MISSING
    """First trained layer, from 1: layers with weights, in order, ending with the classifier."""
    last: int = MISSING
    """Last trained layer, ≥ first."""

    def __post_init__(self) -> None:
        require_at_least("training.phases: start", self.start, 0)
        in_order = 1 <= self.first <= self.last
        require(in_order, "training.phases: first, last", f"{self.first}, {self.last}", "needs 1 ≤ first ≤ last")


@dataclass
class Training:
    """Length and schedule of training."""

    SCHEDULES: ClassVar[tuple[str, ...]] = ("step", "cosine", "constant")
    LOSSES: ClassVar[tuple[str, ...]] = ("cross_entropy", "squared_error")
    epochs: int = MISSING
    """Passes over the training set, ≥ 0 (0 keeps the initial network)."""
    batch_size: int = MISSING
    """Images per step, ≥ 2; the last, partial batch of an epoch is kept."""
    milestones: list[int] = MISSING
    """Epochs at whose start the learning rate is multiplied by decay, ascending."""
    decay: float = MISSING
    """Factor on the learning rate at each milestone, > 0."""
    phases: list[Phase] = field(default_factory=list)
    """Trained layers by phase, in ascending order of start, the first at 0; empty: all layers throughout."""
    frozen_decay: bool = False
    """Whether weight decay acts on frozen layers, as in the released code: zero gradients instead of none."""
    snapshots: list[int] = MISSING
    """Epochs whose weights are kept (0: before training); the last epoch is always kept, later ones are ignored."""
    schedule: str = "step"
    """Of the learning rate: step (decay at milestones), cosine (to zero at the end; Loshchilov & Hutter, 2017) or
    constant."""
    warmup: int = 0
    """Epochs in which the learning rate rises linearly to its value, ≥ 0 and below epochs."""
    loss: str = "cross_entropy"
    """cross_entropy, or squared_error: of logits and one-hot labels, the mean over images and classes."""

    def __post_init__(self) -> None:
        require_at_least("training.epochs", self.epochs, 0)
        require_at_least("training.batch_size", self.batch_size, 2)
        ascending = sorted(set(self.milestones)) == list(self.milestones) and all(m > 0 for m in self.milestones)
        require(ascending, "training.milestones", self.milestones, "must be positive epochs in ascending order")
        require(is_positive(self.decay), "training.decay", self.decay, "must be positive and finite")
        require_one_of("training.schedule", self.schedule, self.SCHEDULES)
        require_one_of("training.loss", self.loss, self.LOSSES)
        stepwise = self.schedule == "step" or not self.milestones
        remedy = f"training.schedule={self.schedule} has none; set []"
        require(stepwise, "training.milestones", self.milestones, remedy)
        warm = self.warmup == 0 or 0 < self.warmup < self.epochs
        require(warm, "training.warmup", self.warmup, f"must be at least 0 and below training.epochs={self.epochs}")
        starts = [phase.start for phase in self.phases]
        ordered = not starts or (starts[0] == 0 and sorted(set(starts)) == starts)
        require(ordered, "training.phases", f"starts {starts}", "must be ascending, the first at epoch 0")
        reached = not starts or starts[-1] < max(self.epochs, 1)
        require(reached, "training.phases", f"starts {starts}", f"must be below training.epochs={self.epochs}")
        unused = self.frozen_decay and not self.phases
        require(not unused, "training.frozen_decay", True, "no layers are frozen; set training.phases")
        require(all(s >= 0 for s in self.snapshots), "training.snapshots", self.snapshots, "must be at least 0")

    def kept_epochs(self) -> tuple[int, ...]:
        """Return the epochs whose weights a run keeps, ascending, including the last."""
        return tuple(sorted({e for e in self.snapshots if e <= self.epochs} | {self.epochs}))


@dataclass
class Measure:
    """How the separation fuzziness D of each layer is computed from a snapshot."""

    BATCH_NORMS: ClassVar[tuple[str, ...]] = ("batch", "running", "expected")
    WEIGHTINGS: ClassVar[tuple[str, ...]] = ("class_size", "equal")
    VIEWS: ClassVar[tuple[str, ...]] = ("layer", "block")
    ORDERS: ClassVar[tuple[str, ...]] = ("stored", "shuffled", "stratified")
    view: str = MISSING
    """Points of the law: layer (after each layer) or block (after each block, for networks with blocks)."""
    components: int | None = None
    """Principal components of the training features to project wider features on; null: no projection."""
    batch_norm: str = MISSING
    """Statistics of batch normalisation: batch (of the measured batch), running (as in evaluation), or expected (of the
    classes of the measured batch, which predicts the floor under D)."""
    batch_size: int = MISSING
    """Images per forward pass, ≥ 2."""
    order: str = "stored"
    """Order of the images: stored, shuffled, or stratified (each class in proportion in every batch)."""
    order_seed: int = 0
    """Seed of a shuffled or stratified order; 0 … 2³²−1."""
    weighting: str = MISSING
    """Weight of a class: class_size (n_k/n, the definition) or equal (1/K)."""
    permutation_seed: int | None = None
    """Seed of a random order of the hidden layers after the first, in which the network is measured as a control; null:
    as trained."""
    epochs: list[int] | None = None
    """Snapshots measured on the training set; null: every snapshot kept. Not part of the identity."""
    test_epochs: list[int] | None = None
    """Snapshots also measured on the test set; null: the last. Not part of the identity."""
    test_every_snapshot: bool = False
    """Whether every snapshot is measured on the test set; replaces test_epochs. Not part of the identity."""
    memory_limit: float = MISSING
    """GB; features of all layers up to this size are kept in one pass, else two are made. Not part of the identity."""

    def __post_init__(self) -> None:
        require_one_of("measure.batch_norm", self.batch_norm, self.BATCH_NORMS)
        require_one_of("measure.weighting", self.weighting, self.WEIGHTINGS)
        require_one_of("measure.view", self.view, self.VIEWS)
        require_one_of("measure.order", self.order, self.ORDERS)
        for name, seed in (("order_seed", self.order_seed), ("permutation_seed", self.permutation_seed)):
            require(seed is None or 0 <= seed < 2**32, f"measure.{name}", seed, "must be 0 … 4294967295")
        redundant = self.test_every_snapshot and self.test_epochs is not None
        remedy = "measure.test_every_snapshot includes all; set one of the two"
        require(not redundant, "measure.test_epochs", self.test_epochs, remedy)
        projected = self.components is None or self.components >= 1
        require(projected, "measure.components", self.components, "must be at least 1, or null for no projection")
        whole = self.components is None or self.batch_norm != "expected"
        require(whole, "measure.components", self.components, "not with measure.batch_norm=expected; set null")
        require_at_least("measure.batch_size", self.batch_size, 2)
        require_at_least("measure.memory_limit", self.memory_limit, 0)


@dataclass
class Robustness:
    """Perturbations of the trained network; a kind without strengths is skipped."""

    weights: list[float] = MISSING
    """Gaussian noise on the weights of all layers: strengths relative to each layer's norm, > 0."""
    one_layer: list[float] = MISSING
    """The same on one layer with weights at a time; D is measured at the last layer."""
    input_noise: list[float] = MISSING
    """Gaussian noise on the images: standard deviations, in intensities of 0 … 1."""
    corruptions: list[float] = MISSING
    """Corrupted images (shot noise, impulse noise, blur, contrast and brightness in turn): severities, > 0 … 1."""
    fgsm: list[float] = MISSING
    """Adversarial images by one step (FGSM): radii in the maximum norm, in intensities, > 0 … 1."""
    pgd: list[float] = MISSING
    """Adversarial images by attack_steps steps from a random start (PGD): radii as for fgsm."""
    draws: int = MISSING
    """Draws per kind and strength, ≥ 1; FGSM is deterministic and has one."""
    attack_steps: int = MISSING
    """Steps of PGD, ≥ 1."""
    attacked_training_draws: int = MISSING
    """PGD draws on the training images, for D, ≥ 1; at most ``draws`` are used."""
    test_images: int = MISSING
    """Number of test images, the first in stored order, ≥ 1; all where there are fewer."""
    seed: int = MISSING
    """Seed of the draws, the same for every network; 0 … 2³²−1."""

    def __post_init__(self) -> None:
        for name in ROBUSTNESS_KINDS:
            strengths = getattr(self, name)
            usable = all(map(is_positive, strengths)) and len(set(strengths)) == len(strengths)
            remedy = "must be positive, finite and distinct; set [] to skip this kind"
            require(usable, f"robustness.{name}", strengths, remedy)
            bounded = name not in ("corruptions", "fgsm", "pgd") or max(strengths, default=0.0) <= 1
            require(bounded, f"robustness.{name}", strengths, "must be at most 1")
        perturbed = any(getattr(self, name) for name in ROBUSTNESS_KINDS)
        require(perturbed, "robustness", "no strengths", "set at least one, or robustness=null")
        for name in ("draws", "attack_steps", "attacked_training_draws", "test_images"):
            require_at_least(f"robustness.{name}", getattr(self, name), 1)
        require(0 <= self.seed < 2**32, "robustness.seed", self.seed, "must be 0 … 4294967295")


@dataclass
class Compute:
    """Execution settings: how a run is computed, not what it computes."""

    ENGINES: ClassVar[tuple[str, ...]] = ("auto", "native", "batched")
    COMPILES: ClassVar[tuple[str, ...]] = ("auto", "always", "never")
    DTYPES: ClassVar[tuple[str, ...]] = ("float32", "float64")
    device: str = MISSING
    """auto (a GPU where there is one), cpu, cuda, cuda:1, …"""
    threads: int = MISSING
    """CPU threads per training, ≥ 1; the native engine trains on one, and uses the others for measuring alone."""
    compile: str = MISSING
    """Compilation of the batched feed-forward kernels: auto (where it saves time), always or never."""
    dtype: str = MISSING
    """Precision of weights and activations: float32 or float64."""
    checkpoint_every: int = MISSING
    """Epochs between checkpoints, ≥ 1."""
    checkpoint_seconds: float = 10.0
    """Seconds of training between checkpoints, at least; ≥ 0. A shorter time is trained again as fast as saved."""
    engine: str = "auto"
    """native (each network by itself, on a core of a CPU), batched (populations; convolutions by torch), or auto: the
    faster one: native where it can be compiled, but not for convolutions of many channels or with several threads."""
    tf32: bool = False
    """GPU matrix products and convolutions in TF32: faster, with 10 bits of mantissa instead of 23."""
    deterministic: bool = True
    """On a GPU only bit-for-bit deterministic algorithms, some of them slower; CPUs are deterministic anyway."""

    def __post_init__(self) -> None:
        require_one_of("compute.compile", self.compile, self.COMPILES)
        require_one_of("compute.engine", self.engine, self.ENGINES)
        require_at_least("compute.checkpoint_seconds", self.checkpoint_seconds, 0)
        require_one_of("compute.dtype", self.dtype, self.DTYPES)
        require_at_least("compute.threads", self.threads, 1)
        require_at_least("compute.checkpoint_every", self.checkpoint_every, 1)


@dataclass
class Tracking:
    """Mirror of each run in wandb."""

    MODES: ClassVar[tuple[str, ...]] = ("offline", "online", "off")
    FORBIDDEN_IN_PROJECT: ClassVar[str] = "/\\#?%:"
    mode: str = MISSING
    """offline (files under RESULTS/wandb, to sync later), online (needs `wandb login`) or off."""
    project: str = MISSING
    """wandb project."""
    entity: str | None = None
    """wandb user or team; null for the account's default."""

    def __post_init__(self) -> None:
        require_one_of("tracking.mode", self.mode, self.MODES)
        forbidden = sorted(set(self.project) & set(self.FORBIDDEN_IN_PROJECT))
        require(not forbidden, "tracking.project", self.project, f"must not contain {' '.join(forbidden)}")


@dataclass
class Config:
    """One run, its evaluations and its execution settings."""

    architecture: Architecture = MISSING
    """Network."""
    dataset: Dataset = MISSING
    """Training and test images."""
    optimizer: Optimizer = MISSING
    """Update rule."""
    training: Training = MISSING
    """Length and schedule of training."""
    measure: Measure = MISSING
    """How D is computed. Identity of a measurement."""
    measures: list[str] | None = None
    """Conventions to measure under, the first being the run's own: names of conf/measure, each of which supplies
    batch_norm, order and batch_size; null: that of measure alone."""
    robustness: Robustness | None = None
    """Perturbations of the trained network; null: none. Identity of a robustness evaluation, with measure."""
    compute: Compute = MISSING
    """Execution settings. Not part of any identity."""
    tracking: Tracking = MISSING
    """Mirror in wandb. Not part of any identity."""
    seed: int = MISSING
    """Seed of initialisation and data order; 0 … 2³²−1."""
    experiment: str | None = None
    """Experiment that the run belongs to; its group in wandb. Not part of any identity."""
    results: str = MISSING
    """Output folder: runs, figures, tables, wandb. Not part of any identity."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be 0 … 4294967295")
        require(self.results != "", "results", "''", "must name a folder")
