"""VGG and AlexNet as modified in the paper: 5×5 kernels, BatchNorm throughout, the image's channels repeated.

The measured layers are each convolution, after ReLU and before pooling, and the two hidden linear layers; there are no
blocks. On 32×32 grey images VGG13 has 45.1 million parameters and AlexNet 39.9 million.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equisep.networks.network import Network, repeat_channels

# Convolutions per stage, by depth, and channels per stage (Simonyan & Zisserman, 2015).
VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
ALEXNET_POOLED = (0, 1, 4)


class ConvolutionalNetwork(Network):
    """Convolutions, some followed by pooling, then two hidden linear layers and a linear classifier."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        channels: Sequence[int],
        pools: Sequence[nn.Module | None],
        classifier_width: int,
        *,
        kernel: int,
        input_repeats: int,
    ) -> None:
        """channels, pools: of each convolution, None for no pooling. classifier_width: units of the hidden layers."""
        super().__init__()
        self.input_repeats = input_repeats
        self.features = nn.Sequential()
        layers = []
        previous = input_shape[0] * input_repeats
        for width, pool in zip(channels, pools, strict=True):
            convolution = nn.Conv2d(previous, width, kernel, padding=kernel // 2)
            layers.append(f"features.{len(self.features)}")
            self.features.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            if pool is not None:
                self.features.append(pool)
            previous = width
        with torch.device("meta"):
            pooled = torch.empty(1, 1, *input_shape[1:])
            for pool in pools:
                pooled = pooled if pool is None else pool(pooled)
        previous *= pooled.numel()
        self.hidden = nn.Sequential()
        for _ in range(2):
            layers.append(f"hidden.{len(self.hidden)}")
            linear = nn.Linear(previous, classifier_width)
            self.hidden.append(nn.Sequential(linear, nn.BatchNorm1d(classifier_width), nn.ReLU()))
            previous = classifier_width
        self.classifier = nn.Linear(previous, classes)
        self.layers = tuple(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, classes) logits for (n, channels, height, width) images."""
        features = self.features(repeat_channels(inputs, self.input_repeats))
        logits: Tensor = self.classifier(self.hidden(features.flatten(start_dim=1)))
        return logits


def build_vgg(
    input_shape: tuple[int, ...], classes: int, depth: int, multiplier: float, classifier_width: int, **shared: int
) -> ConvolutionalNetwork:
    """Return the VGG of a depth; raises ValueError for images that cannot be halved five times.

    multiplier: factor on all channels and hidden units. shared: kernel and input_repeats of ConvolutionalNetwork.
    """
    _require_size("VGG", input_shape, 32)
    channels: list[int] = []
    pools: list[nn.Module | None] = []
    for convolutions, width in zip(VGG_STAGES[depth], VGG_CHANNELS, strict=True):
        channels += [_scaled(width, multiplier)] * convolutions
        pools += [None] * (convolutions - 1) + [nn.MaxPool2d(2)]
    return ConvolutionalNetwork(input_shape, classes, channels, pools, _scaled(classifier_width, multiplier), **shared)


def build_alexnet(
    input_shape: tuple[int, ...], classes: int, multiplier: float, classifier_width: int, **shared: int
) -> ConvolutionalNetwork:
    """Return the AlexNet; raises ValueError for images too small for its pooling. Arguments as of build_vgg."""
    _require_size("AlexNet", input_shape, 16)
    channels = [_scaled(width, multiplier) for width in ALEXNET_CHANNELS]
    pools = [nn.MaxPool2d(3, stride=2, padding=1) if layer in ALEXNET_POOLED else None for layer in range(5)]
    return ConvolutionalNetwork(input_shape, classes, channels, pools, _scaled(classifier_width, multiplier), **shared)


def _require_size(family: str, input_shape: tuple[int, ...], least: int) -> None:
    if min(input_shape[1:]) < least:
        problem = f"{family} needs at least {least}×{least} pixels; set for example dataset=fashion_mnist_32x32"
        raise ValueError(f"dataset.size={input_shape[1]}: {problem}")


def _scaled(width: int, multiplier: float) -> int:
    return max(1, round(width * multiplier))
