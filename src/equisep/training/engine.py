"""What an engine is: E networks of one shape as one program, a training step at a time.

An engine holds each parameter of E networks as one stacked tensor (E, *shape), in the order of
``module.parameters()``, and the gradients likewise. Optimizers update slices of the first axis, and
a network goes in as, and comes out as, its plain module.
"""

import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class Program(Protocol):
    """E networks of one shape. weights, gradients: a tensor (E, *shape) a parameter; step() fills the gradients."""

    weights: list[Tensor]
    gradients: list[Tensor]

    def step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run forward and backward in training mode on a batch of its own for each network.

        inputs: (E, b, …); labels: (E, b) int64. Returns the mean cross-entropy (E,) and the number of
        correct predictions (E,), and leaves the gradient of each network's loss in ``gradients``.
        """

    def module(self, index: int) -> nn.Module:
        """Return a network as its plain module, with present weights and buffers; it is the program's own."""

    def buffers(self) -> list[Tensor]:
        """Return the tensors besides the weights that the steps to come depend on, to be saved or overwritten."""


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on a CPU a C++ compiler and Python's headers."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return device.type == "cuda" or (compiler is not None and headers.is_file())


def stack_parameters(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Return each parameter of networks of one shape as one contiguous tensor (E, *shape)."""
    return [torch.stack(parameters).detach() for parameters in zip(*(n.parameters() for n in networks), strict=True)]


def set_parameters(network: nn.Module, weights: Sequence[Tensor], index: int) -> None:
    """Copy the parameters of one network out of the stacked ones."""
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.copy_(weight[index])
