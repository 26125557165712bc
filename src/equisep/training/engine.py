"""Base of the engines: E networks of one shape as one program that computes a training step.

Each parameter of the E networks is one stacked tensor (E, *shape), in the order of ``module.parameters()``, and so is
its gradient. Optimizers update slices of the first axis. Networks enter and leave as plain modules.
"""

import os
import shutil
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn


class Program(ABC):
    """E networks of one shape. weights, gradients: a tensor (E, *shape) per parameter; step() fills the gradients."""

    name: ClassVar[str]
    """As recorded with the runs that the program trained."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = list(networks)
        parameters = zip(*(network.parameters() for network in networks), strict=True)
        self.weights = [torch.stack(parameter).detach() for parameter in parameters]
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]

    @abstractmethod
    def step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run forward and backward passes in training mode, with a batch per network.

        inputs: (E, b, …); labels: (E, b) int64. Returns the mean cross-entropy (E,), nats, and the number of correct
        predictions (E,), and leaves the gradient of each network's loss in ``gradients``.
        """

    @abstractmethod
    def buffers(self) -> list[Tensor]:
        """Return the tensors besides the weights that later steps depend on, to be saved or overwritten."""

    def module(self, index: int) -> nn.Module:
        """Return a network as the program's own plain module, with its current weights and buffers."""
        network = self.networks[index]
        with torch.no_grad():
            for parameter, weight in zip(network.parameters(), self.weights, strict=True):
                parameter.copy_(weight[index])
        return network


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile can run: on a CPU it needs a C++ compiler and Python's headers."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return device.type == "cuda" or (compiler is not None and headers.is_file())
