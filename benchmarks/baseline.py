"""The paper's protocol written the straightforward way: one nn.Module at a time, autograd, torch.optim.

An honest baseline: the data are tensors in memory, nothing is synchronised within an epoch that the
protocol does not ask for, the optimizer is fused. It is also what the tests hold the populations to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equisep.config import Optimizer, Training
from equisep.data import Split


@dataclass
class Baseline:
    """One network on its way through the schedule."""

    network: nn.Module
    split: Split
    optimizer: Optimizer
    training: Training
    seed: int
    epoch: int = 0
    update: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        """Build torch.optim's optimizer and the stream of the data order."""
        rates = {"lr": self.optimizer.learning_rate, "weight_decay": self.optimizer.weight_decay, "fused": True}
        parameters = self.network.parameters()
        if self.optimizer.kind == "adam":
            self.update = torch.optim.Adam(parameters, **rates)
        else:
            self.update = torch.optim.SGD(parameters, momentum=self.optimizer.momentum, **rates)
        self.stream = np.random.RandomState(self.seed)

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        """Train on the images of given indices and return their mean loss."""
        loss = cross_entropy(self.network(self.split.inputs[batch]), self.split.labels[batch])
        self.update.zero_grad()
        loss.backward()
        self.update.step()
        return loss.detach()

    def next_order(self) -> torch.Tensor:
        """Return the order of the images in the next epoch."""
        order = np.arange(len(self.split.labels), dtype=np.int32)
        self.stream.shuffle(order)
        return torch.from_numpy(order).long()

    def run_epoch(self) -> float:
        """Train one epoch and return its mean loss."""
        self.network.train()
        for group in self.update.param_groups:
            factor = self.training.decay ** sum(milestone <= self.epoch for milestone in self.training.milestones)
            group["lr"] = self.optimizer.learning_rate * factor
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.next_order().split(self.training.batch_size):
            total += self.step(batch) * len(batch)
        self.epoch += 1
        return total.item() / len(self.split.labels)
