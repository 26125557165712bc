"""Feed-forward networks: hidden layers Linear → BatchNorm or LayerNorm → ReLU, then a linear classifier.

With 100 inputs, width 100 and 10 classes a network of depth H has 10,300·(H−1) + 1,010 parameters and H measured
layers: the input and the output of each hidden layer, but not the logits.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from equisep.networks.network import Network


class FeedForwardNetwork(Network):
    """The paper's feed-forward network and its variants; inputs (n, …) are flattened."""

    def __init__(
        self,
        inputs: int,
        classes: int,
        widths: Sequence[int],
        *,
        batch_norm: bool = True,
        layer_norm: bool = False,
        relu: bool = True,
        kaiming: bool = False,
    ) -> None:
        """inputs, classes: units, ≥ 1. widths: units of each hidden layer. batch_norm, layer_norm, relu: of these.

        kaiming: whether hidden layers start from He's initialisation (He et al., 2015: normal weights of variance
        2 / inputs, no bias) instead of PyTorch's.
        """
        super().__init__()
        self.hidden = nn.Sequential()
        for previous, width in zip([inputs, *widths], widths, strict=False):
            linear = nn.Linear(previous, width)
            if kaiming:
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
            layer = nn.Sequential(linear)
            if batch_norm:
                layer.append(nn.BatchNorm1d(width))
            if layer_norm:
                layer.append(nn.LayerNorm(width))
            if relu:
                layer.append(nn.ReLU())
            self.hidden.append(layer)
        self.classifier = nn.Linear(widths[-1], classes)
        self.layers = tuple(f"hidden.{number}" for number in range(len(widths)))
        self.normalised_and_rectified = batch_norm and relu

    def permuted(self, seed: int) -> "FeedForwardNetwork":
        """Return the network with its hidden layers after the first in a random order that is not their own.

        The layers are shared. Raises ValueError if these are not all of one width, or fewer than two.
        """
        first, *others = self.hidden
        if len({cast(nn.Sequential, block)[0].weight.shape for block in others}) > 1:
            raise ValueError("the hidden layers have different widths and cannot be permuted")
        if len(others) < 2:
            raise ValueError("there is only one hidden layer after the first, which has no other order")
        generator, unchanged = torch.Generator().manual_seed(seed), torch.arange(len(others))
        order = unchanged
        while torch.equal(order, unchanged):
            order = torch.randperm(len(others), generator=generator)
        permuted = copy.copy(self)
        permuted._modules = dict(self._modules)
        permuted.hidden = nn.Sequential(first, *(others[index] for index in order))
        return permuted

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, classes) logits for inputs (n, …)."""
        logits: Tensor = self.classifier(self.hidden(inputs.flatten(start_dim=1)))
        return logits
