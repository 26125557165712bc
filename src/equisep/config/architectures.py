"""The validate_config configuration of a network: a dataclass per family, with units and ranges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from equisep.config.validation import is_odd, require, require_one_of


def _require_blocks(blocks: Sequence[int]) -> None:
    usable = len(blocks) > 0 and min(blocks) >= 1
    require(usable, "architecture.blocks", blocks, "give at least one block, of at least one convolution")


def _require_multiplier(multiplier: float) -> None:
    require(1 / 8 <= multiplier <= 1, "architecture.width_multiplier", multiplier, "give a factor in 0.125 … 1")


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
        require_one_of("architecture.family", self.family, ("fnn",))
        require_one_of("architecture.activation", self.activation, self.ACTIVATIONS)
        if self.widths is not None:
            remedy = "it stands in place of depth and width, which architecture=fnn_widths leaves null"
            require(self.depth is None and self.width is None, "architecture.widths", self.widths, remedy)
            usable = len(self.widths) > 0 and min(self.widths) >= 1
            require(usable, "architecture.widths", self.widths, "give at least one layer, of at least 1 unit")
            return
        depth, width = self.depth, self.width
        require(
            depth is not None and depth >= 2,
            "architecture.depth",
            depth,
            "a feed-forward network needs at least 2 layers",
        )
        require(width is not None and width >= 1, "architecture.width", width, "a layer needs at least 1 unit")

    def hidden_widths(self) -> list[int]:
        """Return the units of each hidden layer."""
        if self.widths is not None:
            return list(self.widths)
        assert self.depth is not None
        assert self.width is not None
        return [self.width] * (self.depth - 1)


@dataclass
class Convolutional(Architecture):
    """What the convolutional families share: kernel size, repeated input channels, classifier, a factor on all widths."""

    kernel: int = MISSING
    """Height and width of the convolutions' kernels, odd, ≥ 1."""
    input_repeats: int = MISSING
    """How often the image's channels are repeated, ≥ 1."""
    width_multiplier: float = MISSING
    """Factor on the channels and hidden units, 1/8 … 1; below 1 it is not the paper's network."""
    classifier_width: int = MISSING
    """Units of the two hidden layers of the classifier, ≥ 1."""

    def __post_init__(self) -> None:
        require(is_odd(self.kernel), "architecture.kernel", self.kernel, "give an odd size")
        require(self.input_repeats >= 1, "architecture.input_repeats", self.input_repeats, "give at least 1")
        require(self.classifier_width >= 1, "architecture.classifier_width", self.classifier_width, "give at least 1")
        _require_multiplier(self.width_multiplier)


@dataclass
class Vgg(Convolutional):
    """VGG with batch normalisation: Conv → BatchNorm → ReLU in five stages, then a classifier of three layers."""

    DEPTHS: ClassVar[tuple[int, ...]] = (11, 13, 16, 19)
    depth: int = MISSING
    """Layers with weights: 11, 13, 16 or 19."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("vgg",))
        require(self.depth in self.DEPTHS, "architecture.depth", self.depth, "VGG has 11, 13, 16 or 19 layers")
        super().__post_init__()


@dataclass
class AlexNet(Convolutional):
    """AlexNet as the paper changes it: five convolutions of one kernel size, two hidden linear layers, BatchNorm."""

    def __post_init__(self) -> None:
        require_one_of("architecture.family", self.family, ("alexnet",))
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
        require_one_of("architecture.family", self.family, ("resnet",))
        _require_blocks(self.blocks)
        fits = len(self.kernels) == len(self.blocks) and all(map(is_odd, self.kernels))
        require(fits, "architecture.kernels", self.kernels, "give an odd size for each of architecture.blocks")
        require(self.input_repeats >= 1, "architecture.input_repeats", self.input_repeats, "give at least 1")


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
        require_one_of("architecture.family", self.family, ("densenet",))
        _require_blocks(self.blocks)
        require(self.growth >= 1, "architecture.growth", self.growth, "give at least 1")
        require(is_odd(self.kernel), "architecture.kernel", self.kernel, "give an odd size")
        _require_multiplier(self.width_multiplier)


FAMILIES: dict[str, type[Architecture]] = {
    "fnn": FeedForward,
    "vgg": Vgg,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "densenet": DenseNet,
}
