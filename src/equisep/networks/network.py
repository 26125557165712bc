"""Base of the networks: a plain nn.Module that names its layers and blocks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A classifier that names its measured modules.

    Inputs are (n, channels, height, width) images, outputs (n, classes) logits. ``layers`` names, in order, the modules
    whose outputs are the hidden layers 1, 2, …; ``blocks`` those that end a block (empty for networks without blocks).
    The input is layer 0 and block 0; the logits are neither.
    """

    layers: tuple[str, ...]
    blocks: tuple[str, ...] = ()

    def parameter_layers(self) -> list[int]:
        """Return the layer, counted from 1, of each parameter, in the order of ``parameters()``.

        Each linear or convolutional module starts a layer, which includes the batch normalisation after it.
        """
        return list(self._number_parameters())

    def _number_parameters(self) -> Iterator[int]:
        layer = 0
        for module in self.modules():
            layer += isinstance(module, nn.Linear | nn.Conv2d)
            for _ in module.parameters(recurse=False):
                yield layer


def repeat_channels(images: Tensor, repeats: int) -> Tensor:
    """Return (n, channels·repeats, height, width) images: all channels, repeated in turn."""
    return channels_last(images.repeat(1, repeats, 1, 1))


def channels_last(images: Tensor) -> Tensor:
    """Return (n, channels, height, width) images in the memory format that is fastest in oneDNN and cuDNN."""
    return images.contiguous(memory_format=torch.channels_last)
