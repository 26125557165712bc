"""The families of networks, as plain nn.Modules; a network names its measured layers in ``layers``."""

from __future__ import annotations

import torch
from torch import nn

from equisep.networks.fnn import FeedForwardNetwork
from equisep.schema import Architecture, ConfigError, FeedForward


def build_network(architecture: Architecture, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised network for inputs of shape (channels, height, width).

    The initialisation is PyTorch's, from ``torch.manual_seed(seed)``; the global random state is left
    as found. Raises ConfigError for a family that does not exist.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(architecture, FeedForward):
            inputs = torch.Size(input_shape).numel()
            return FeedForwardNetwork(inputs, classes, architecture.depth, architecture.width)
    raise ConfigError(f"architecture.family={architecture.family}: no such family of networks")
