"""A population of networks through its schedule, epoch by epoch, with a state to save and take up bit for bit.

The protocol is the released code's: the data order of an epoch is ``numpy.random.shuffle`` of
arange(n) from a stream seeded once per run, the last partial batch is kept, the learning rate is
multiplied by a constant at milestones, weight decay is L2 on every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Member:
    """One network of a population: initialised and on the device, with its data, its optimizer and its seed."""

    network: nn.Module
    split: Split
    optimizer: Optimizer
    seed: int


class Population:
    """Networks on their way through one schedule, side by side; what becomes of one does not touch the others."""

    def __init__(self, members: Sequence[Member], training: Training) -> None:
        """members: their networks are trained in place. training: the schedule they share."""
        self.members = tuple(members)
        self.training = training
        self.optimizers = [build_optimizer(member.network, member.optimizer) for member in members]
        self.orders = [DataOrder(len(member.split.labels), member.seed) for member in members]
        self.epoch = 0

    def run_epoch(self) -> list[Epoch]:
        """Train every member one epoch and return what its steps saw, member by member."""
        factor = learning_rate_factor(self.training, self.epoch)
        self.epoch += 1
        return [self._run_member(index, factor) for index in range(len(self.members))]

    def _run_member(self, index: int, factor: float) -> Epoch:
        member, optimizer = self.members[index], self.optimizers[index]
        assert member.optimizer.learning_rate is not None
        rate = member.optimizer.learning_rate * factor
        for group in optimizer.param_groups:
            group["lr"] = rate
        member.network.train()
        device = member.split.labels.device
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        order = self.orders[index].next_epoch().to(device)
        for batch in torch.split(order, self.training.batch_size):
            labels = member.split.labels[batch]
            logits = member.network(member.split.inputs[batch])
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            loss_sum += loss.detach() * len(batch)
            correct += (logits.argmax(dim=1) == labels).sum()
        images = len(member.split.labels)
        return Epoch(self.epoch, loss_sum.item() / images, correct.item() / images, rate)

    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights and buffers of a member, by the names of its plain module."""
        return dict(self.members[index].network.state_dict())

    def state(self) -> dict[str, Any]:
        """Return all that the epochs to come depend on: weights, buffers, optimizers, epoch."""
        return {
            "epoch": self.epoch,
            "networks": [member.network.state_dict() for member in self.members],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` returned; only valid on a fresh population of the same members."""
        for index, member in enumerate(self.members):
            member.network.load_state_dict(state["networks"][index])
            self.optimizers[index].load_state_dict(state["optimizers"][index])
        self.epoch = state["epoch"]
        for order in self.orders:
            for _ in range(self.epoch):
                order.next_epoch()


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
