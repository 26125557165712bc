"""Residual networks of one width: no stem, no downsampling; the image's channels, repeated, are the network's.

Layers are the outputs after each ReLU, the last of a block after the addition; blocks are those last ones.
Eight channels at 32×32 pixels make 8,192 features everywhere, and a classifier on all of them.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from equisep.networks.network import Network, repeat_channels


class ResidualBlock(nn.Module):
    """Convolution → BatchNorm → ReLU, some times; before the last ReLU the block's input is added."""

    def __init__(self, channels: int, convolutions: int, kernel: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Sequential(*_convolution(channels, kernel), nn.ReLU()) for _ in range(convolutions - 1))
        )
        self.last = nn.Sequential(*_convolution(channels, kernel))
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return relu(inputs + F(inputs)), of the shape of the inputs."""
        outputs: Tensor = self.relu(inputs + self.last(self.inner(inputs)))
        return outputs


def _convolution(channels: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels)


class ResidualNetwork(Network):
    """The paper's residual network: blocks, one after another, then a linear classifier on all features."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        blocks: Sequence[int],
        kernels: Sequence[int],
        input_repeats: int,
    ) -> None:
        """blocks: convolutions of each block. kernels: size of each block's. input_repeats: of the channels."""
        super().__init__()
        self.input_repeats = input_repeats
        channels = input_shape[0] * input_repeats
        self.body = nn.Sequential(*map(ResidualBlock, [channels] * len(blocks), blocks, kernels))
        self.classifier = nn.Linear(channels * input_shape[1] * input_shape[2], classes)
        layers: list[str] = []
        for block, convolutions in enumerate(blocks):
            layers += [f"body.{block}.inner.{layer}" for layer in range(convolutions - 1)] + [f"body.{block}"]
        self.layers = tuple(layers)
        self.blocks = tuple(f"body.{block}" for block in range(len(blocks)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, classes) logits for (n, channels, height, width) images."""
        features = self.body(repeat_channels(inputs, self.input_repeats))
        logits: Tensor = self.classifier(features.flatten(start_dim=1))
        return logits
