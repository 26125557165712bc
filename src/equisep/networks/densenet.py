"""Densely connected networks (Huang et al., 2017): each layer receives the outputs of all earlier layers of its block.

A stem of 2·growth channels; dense blocks of BatchNorm → ReLU → convolution, with transitions between them (BatchNorm →
ReLU → 1×1 convolution to half the channels → average pooling to half the image); after the last block BatchNorm → ReLU
→ average over the image → linear classifier. The output of a layer is the input of the next, with all channels so far;
that of a block is its last layer's. The paper does not specify its DenseNet: this is our choice.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from equisep.networks.network import Network, channels_last


class DenseLayer(nn.Module):
    """Adds growth channels to its input."""

    def __init__(self, channels: int, growth: int, kernel: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, growth, kernel, padding=kernel // 2, bias=False)
        self.grow = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs followed by the new channels, (n, channels + growth, …)."""
        return torch.cat([inputs, self.grow(inputs)], dim=1)


class DenseNetwork(Network):
    """Dense blocks with transitions between them, then a linear classifier on channel averages."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, blocks: Sequence[int], growth: int, kernel: int
    ) -> None:
        """blocks: convolutions of each block. Raises ValueError for images too small for the transitions."""
        super().__init__()
        smallest = 2 ** (len(blocks) - 1)
        if min(input_shape[1:]) < smallest:
            problem = f"{len(blocks)} dense blocks need at least {smallest}×{smallest} pixels"
            raise ValueError(
                f"dataset.size={input_shape[1]}: {problem}; set fewer architecture.blocks or a larger size"
            )
        channels = 2 * growth
        self.stem = nn.Conv2d(input_shape[0], channels, kernel, padding=kernel // 2, bias=False)
        self.body = nn.Sequential()
        layers, ends = [], []
        for number, convolutions in enumerate(blocks):
            block = nn.Sequential()
            for layer in range(convolutions):
                layers.append(f"body.{len(self.body)}.{layer}")
                block.append(DenseLayer(channels, growth, kernel))
                channels += growth
            ends.append(f"body.{len(self.body)}")
            self.body.append(block)
            if number < len(blocks) - 1:
                halved = nn.Conv2d(channels, channels // 2, 1, bias=False)
                self.body.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), halved, nn.AvgPool2d(2)))
                channels //= 2
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)
        self.layers, self.blocks = tuple(layers), tuple(ends)

    def _number_parameters(self) -> Iterator[int]:
        layer = 0
        for module in self.modules():
            layer += isinstance(module, nn.Linear | nn.Conv2d)
            for _ in module.parameters(recurse=False):
                # In this family the normalisation precedes the convolution that it belongs to.
                yield layer + isinstance(module, nn.BatchNorm2d)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, classes) logits for (n, channels, height, width) images."""
        logits: Tensor = self.classifier(self.last(self.body(channels_last(self.stem(inputs)))))
        return logits
