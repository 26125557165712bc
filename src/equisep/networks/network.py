"""What every network of this package is: a plain nn.Module that names its layers and its blocks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A classifier that names where it is measured.

    Inputs are (n, channels, height, width) images, the output is (n, classes) logits. ``layers`` names,
    in order, the modules whose outputs are the hidden layers 1, 2, …; ``blocks`` those whose outputs end a
    block, and is empty for networks without blocks. The input is layer 0 and block 0; logits are neither.
    """

    layers: tuple[str, ...]
    blocks: tuple[str, ...] = ()

    def parameter_layers(self) -> list[int]:
        """Return for each parameter, in the order of ``parameters()``, the layer with weights it belongs to, from 1 on.

        Each linear or convolutional module begins a layer; the batch normalisation behind it is part of it.
        """
        return list(self._number_parameters())

    def _number_parameters(self) -> Iterator[int]:
        layer = 0
        for module in self.modules():
            layer += isinstance(module, nn.Linear | nn.Conv2d)
            for _ in module.parameters(recurse=False):
                yield layer


def repeat_channels(images: Tensor, repeats: int) -> Tensor:
    """Return (n, channels·repeats, height, width) images: all channels, again and again."""
    return channels_last(images.repeat(1, repeats, 1, 1))


def channels_last(images: Tensor) -> Tensor:
    """Return the same (n, channels, height, width) images as oneDNN and cuDNN like them best in memory."""
    return images.contiguous(memory_format=torch.channels_last)
