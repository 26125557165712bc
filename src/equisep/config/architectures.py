"""Typed configuration of a network: a dataclass per family, with units and ranges."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from equisep.config.targets import digest_of, find_target
from equisep.config.validation import is_odd, require, require_at_least, require_one_of


def _require_blocks(blocks: Sequence[int]) -> None:
    usable = len(blocks) > 0 and min(blocks) >= 1
    require(usable, "architecture.blocks", blocks, "set at least one block, each of at least one convolution")


def _require_multiplier(multiplier: float) -> None:
    require(1 / 8 <= multiplier <= 1, "architecture.width_multiplier", multiplier, "must be between 0.125 and 1")


@dataclass
class Architecture:
    """Base of the network families."""

    family: str = MISSING
    """Name of the family, see equisep.networks.families."""


@dataclass
class FeedForward(Architecture):
    """Hidden layers Linear → BatchNorm → ReLU, then a linear classifier."""

    ACTIVATIONS: ClassVar[tuple[str, ...]] = ("relu", "identity")
    depth: int | None = MISSING
    """Number of linear layers including the classifier (the paper's H), ≥ 2; null where widths is set."""
    width: int | None = MISSING
    """Units of each hidden layer, ≥ 1; null where widths is set."""
    widths: list[int] | None = None
    """Units of each hidden layer, listed one by one; replaces depth and width."""
    batch_norm: bool = True
    """Whether each hidden layer is batch-normalised."""
    activation: str = "relu"
    """relu, or identity for a linear network."""
    norm: str | None = None
    """layer: layer normalisation of each hidden layer, with batch_norm=false; null: none besides batch_norm."""
    initialisation: str | None = None
    """Of the hidden layers: kaiming (He et al., 2015, biases zero), or null for PyTorch's."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("fnn",))
        require_one_of("architecture.activation", self.activation, self.ACTIVATIONS)
        require(self.norm in (None, "layer"), "architecture.norm", self.norm, "set layer or null")
        remedy = "replaces batch normalisation; set architecture.batch_norm=false, as architecture=fnn_layer_norm does"
        require(self.norm is None or not self.batch_norm, "architecture.norm", self.norm, remedy)
        known = self.initialisation in (None, "kaiming")
        require(known, "architecture.initialisation", self.initialisation, "set kaiming or null")
        if self.widths is not None:
            remedy = "replaces depth and width; set both to null, as architecture=fnn_widths does"
            require(self.depth is None and self.width is None, "architecture.widths", self.widths, remedy)
            usable = len(self.widths) > 0 and min(self.widths) >= 1
            require(usable, "architecture.widths", self.widths, "set at least one layer, each of at least 1 unit")
            return
        deep = self.depth is not None and self.depth >= 2
        require(deep, "architecture.depth", self.depth, "a feed-forward network needs at least 2 layers")
        wide = self.width is not None and self.width >= 1
        require(wide, "architecture.width", self.width, "a layer needs at least 1 unit")

    def hidden_widths(self) -> list[int]:
        """Return the units of each hidden layer."""
        if self.widths is not None:
            return list(self.widths)
        assert self.depth is not None
        assert self.width is not None
        return [self.width] * (self.depth - 1)


@dataclass
class Convolutional(Architecture):
    """Settings shared by VGG and AlexNet."""

    kernel: int = MISSING
    """Height and width of the convolutions' kernels, odd, ≥ 1."""
    input_repeats: int = MISSING
    """Number of copies of the image's channels, ≥ 1."""
    width_multiplier: float = MISSING
    """Factor on the channels and hidden units, 1/8 … 1; the paper's networks have 1."""
    classifier_width: int = MISSING
    """Units of the two hidden layers of the classifier, ≥ 1."""

    def __post_init__(self) -> None:
        require(is_odd(self.kernel), "architecture.kernel", self.kernel, "must be odd")
        require_at_least("architecture.input_repeats", self.input_repeats, 1)
        require_at_least("architecture.classifier_width", self.classifier_width, 1)
        _require_multiplier(self.width_multiplier)


@dataclass
class Vgg(Convolutional):
    """VGG with batch normalisation: Conv → BatchNorm → ReLU in five stages, then a three-layer classifier."""

    DEPTHS: ClassVar[tuple[int, ...]] = (11, 13, 16, 19)
    depth: int = MISSING
    """Layers with weights: 11, 13, 16 or 19."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("vgg",))
        require(self.depth in self.DEPTHS, "architecture.depth", self.depth, "VGG has 11, 13, 16 or 19 layers")
        super().__post_init__()


@dataclass
class AlexNet(Convolutional):
    """The paper's AlexNet: five convolutions of one kernel size, two hidden linear layers, BatchNorm."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("alexnet",))
        super().__post_init__()


@dataclass
class ResNet(Architecture):
    """Residual blocks of one width without stem or downsampling; the channels are the image's, repeated."""

    blocks: list[int] = MISSING
    """Convolutions of each block, ≥ 1."""
    kernels: list[int] = MISSING
    """Kernel size of each block, odd."""
    input_repeats: int = MISSING
    """Number of copies of the image's channels, ≥ 1: 8 turns a grey image into 8 channels."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("resnet",))
        _require_blocks(self.blocks)
        fits = len(self.kernels) == len(self.blocks) and all(map(is_odd, self.kernels))
        require(fits, "architecture.kernels", self.kernels, "set one odd size per block of architecture.blocks")
        require_at_least("architecture.input_repeats", self.input_repeats, 1)


@dataclass
class DenseNet(Architecture):
    """Dense blocks and transitions that halve channels and image; our choice, as the paper's is unknown."""

    blocks: list[int] = MISSING
    """Convolutions of each dense block, ≥ 1."""
    growth: int = MISSING
    """Channels added by each convolution, ≥ 1; the stem has twice as many."""
    kernel: int = MISSING
    """Height and width of the convolutions' kernels, odd, ≥ 1."""
    width_multiplier: float = MISSING
    """Factor on growth, 1/8 … 1."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("densenet",))
        _require_blocks(self.blocks)
        require_at_least("architecture.growth", self.growth, 1)
        require(is_odd(self.kernel), "architecture.kernel", self.kernel, "must be odd")
        _require_multiplier(self.width_multiplier)


@dataclass
class Custom(Architecture):
    """A network of the user's own, any nn.Module, by the dotted path of its class or of a function that returns one."""

    target: str = MISSING
    """Dotted path, such as mypackage.nets.MyNet; its module is found in the working folder or installed."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of target. input_shape and classes are given too, where target takes them by name."""
    layers: Any = "auto"
    """Measured layers: auto (the rule of equisep.measure), or a list of names or patterns of modules."""
    digest: str | None = None
    """SHA-256, 16 hex digits, of the file that defines target (not of what it imports); filled in."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("custom",))
        listed = isinstance(self.layers, list) and bool(self.layers) and all(isinstance(n, str) for n in self.layers)
        remedy = "must be auto, or a list of names or patterns of modules"
        require(listed or isinstance(self.layers, str), "architecture.layers", self.layers, remedy)
        if self.digest is None:
            self.digest = digest_of(find_target("architecture.target", self.target))


FAMILIES: dict[str, type[Architecture]] = {
    "fnn": FeedForward,
    "vgg": Vgg,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "densenet": DenseNet,
    "custom": Custom,
}
