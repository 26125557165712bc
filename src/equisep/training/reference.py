"""The paper's protocol written plainly: one nn.Module, autograd, torch.optim. Read this first.

The engines compute the same for many networks at once; tests hold them to this class, benchmarks compare them with it.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equisep.config import Optimizer, Training
from equisep.data import Split


@dataclass
class ReferenceTraining:
    """One network on its way through the schedule, trained on a split with an optimizer; seed: of the data order."""

    network: nn.Module
    split: Split
    optimizer: Optimizer
    training: Training
    seed: int
    epoch: int = 0
    update: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        """Build torch.optim's optimizer and the stream of the data order."""
        parameters, rate, decay = self.network.parameters(), self.optimizer.learning_rate, self.optimizer.weight_decay
        assert rate is not None
        self.update = (
            torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
            if self.optimizer.kind == "adam"
            else torch.optim.SGD(parameters, rate, momentum=self.optimizer.momentum, weight_decay=decay, fused=True)
        )
        self.initial_rate = rate
        self.stream = np.random.RandomState(self.seed)

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        """Train on the images of the given indices (b,) and return their mean loss, nats."""
        loss = cross_entropy(self.network(self.split.inputs[batch]), self.split.labels[batch])
        self.update.zero_grad()
        torch.autograd.backward(loss)
        self.update.step()
        return loss.detach()

    def next_order(self) -> torch.Tensor:
        """Return the order of the images (n,) in the next epoch, as the released code shuffles them."""
        order = np.arange(len(self.split.labels), dtype=np.int32)
        self.stream.shuffle(order)
        return torch.from_numpy(order).long()

    def run_epoch(self) -> float:
        """Train one epoch and return its mean loss, nats."""
        self.network.train()
        passed = sum(milestone <= self.epoch for milestone in self.training.milestones)
        for group in self.update.param_groups:
            group["lr"] = self.initial_rate * self.training.decay**passed
        total = torch.zeros((), dtype=torch.float64)
        # The last, partial batch is kept.
        for batch in torch.split(self.next_order(), self.training.batch_size):
            total += self.step(batch) * len(batch)
        self.epoch += 1
        return total.item() / len(self.split.labels)
