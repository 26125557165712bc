"""One network through its schedule, epoch by epoch, with a state that can be saved and taken up bit for bit.

The protocol is the released code's: the data order of an epoch is ``numpy.random.shuffle`` of
arange(n) from a stream seeded once per run, the last partial batch is kept, the learning rate is
multiplied by a constant at milestones, weight decay is L2 on every parameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equisep.data import Split
from equisep.schema import Optimizer, Training


@dataclass(frozen=True)
class Epoch:
    """What an epoch's training steps saw, in training mode, averaged over images.

    epoch: number of epochs finished, from 1 on. loss: cross-entropy, nats. accuracy: 0 … 1.
    learning_rate: the epoch's.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float

    @property
    def diverged(self) -> bool:
        """Whether the loss is no longer a number."""
        return not math.isfinite(self.loss)


class Trainer:
    """A network, its data and its optimizer on the way through the schedule."""

    def __init__(self, network: nn.Module, split: Split, optimizer: Optimizer, training: Training, seed: int) -> None:
        """network and split: on one device; the network is trained in place. seed: of the data order."""
        self.network = network
        self.split = split
        self.training = training
        assert optimizer.learning_rate is not None
        self.learning_rate = optimizer.learning_rate
        self.optimizer = build_optimizer(network, optimizer)
        self.order = DataOrder(len(split.labels), seed)
        self.epoch = 0

    def run_epoch(self) -> Epoch:
        """Train one epoch and return what its steps saw."""
        self.network.train()
        rate = self.learning_rate * learning_rate_factor(self.training, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.split.labels.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.split.labels.device)
        order = self.order.next_epoch().to(self.split.labels.device)
        for batch in torch.split(order, self.training.batch_size):
            labels = self.split.labels[batch]
            logits = self.network(self.split.inputs[batch])
            loss = cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            loss_sum += loss.detach() * len(batch)
            correct += (logits.argmax(dim=1) == labels).sum()
        self.epoch += 1
        images = len(self.split.labels)
        return Epoch(self.epoch, loss_sum.item() / images, correct.item() / images, rate)

    def state(self) -> dict[str, Any]:
        """Return all that the epochs to come depend on: weights, buffers, optimizer, epoch."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` returned; only valid on a fresh trainer."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        for _ in range(self.epoch):
            self.order.next_epoch()


class DataOrder:
    """The order in which the images of each epoch are taken: a function of the seed alone."""

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self.stream = np.random.RandomState(seed)

    def next_epoch(self) -> Tensor:
        """Return the (n,) int64 indices of the next epoch."""
        order = np.arange(self.images, dtype=np.int32)
        self.stream.shuffle(order)
        return torch.from_numpy(order).long()


def learning_rate_factor(training: Training, epoch: int) -> float:
    """Return what the learning rate is multiplied by in the epoch that starts after ``epoch`` finished ones."""
    return training.decay ** sum(milestone <= epoch for milestone in training.milestones)


def build_optimizer(network: nn.Module, config: Optimizer) -> torch.optim.Optimizer:
    """Return torch.optim's optimizer for all parameters of a network."""
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.kind == "adam":
        return torch.optim.Adam(network.parameters(), **settings)
    return torch.optim.SGD(network.parameters(), momentum=config.momentum, **settings)
