"""Residual networks of one width, without stem or downsampling; their channels are the image's, repeated.

The measured layers are the outputs of each ReLU, the last of a block after the addition; blocks are those last ones.
With eight channels of 32×32 pixels every layer has 8,192 features, and the classifier uses all of them.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from equisep.networks.network import Network, repeat_channels


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm and ReLU; the block's input is added before the last ReLU."""

    def __init__(self, channels: int, convolutions: int, kernel: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Sequential(*_convolution(channels, kernel), nn.ReLU()) for _ in range(convolutions - 1))
        )
        self.last = nn.Sequential(*_convolution(channels, kernel))
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return relu(inputs + F(inputs)), in the shape of the inputs."""
        outputs: Tensor = self.relu(inputs + self.last(self.inner(inputs)))
        return outputs


def _convolution(channels: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels)


class ResidualNetwork(Network):
    """The paper's residual network: residual blocks, then a linear classifier on all features."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, blocks: Sequence[int], kernels: Sequence[int], repeats: int
    ) -> None:
        """blocks, kernels: number and kernel size of each block's convolutions. repeats: copies of the channels."""
        super().__init__()
        self.input_repeats = repeats
        channels = input_shape[0] * repeats
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
