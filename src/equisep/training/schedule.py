"""The schedule of a training: its member networks, the data order, learning rate and trained layers of each epoch.

The protocol is that of the released code. The data order of an epoch is ``numpy.random.shuffle`` of arange(n), from a
stream seeded once per run; the last partial batch is kept; the learning rate is multiplied by a constant at milestones;
weight decay is L2 on every parameter. Where the schedule has phases, layers outside the current phase are frozen: their
weights do not change (unless frozen_decay is set), while their batch normalisation still uses batch statistics and
updates the running ones.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from equisep.config import Optimizer, Training
from equisep.data import Split
from equisep.measures import Epoch


@dataclass(frozen=True)
class Member:
    """A network of a population, initialised and on the device, with its data, optimizer and seed of the data order."""

    network: nn.Module
    split: Split
    optimizer: Optimizer
    seed: int


class Trainer(ABC):
    """Networks on their way through a schedule, epoch by epoch, with a state that resumes bit for bit.

    They do not affect each other, even if one diverges.
    """

    engine: str
    """What computes the steps, as recorded with the runs: native, batched, vmap or autograd."""

    def __init__(self, members: Sequence[Member], training: Training) -> None:
        """members: of one shape, with equally many images."""
        self.members, self.training = tuple(members), training
        self.orders = [DataOrder(len(member.split.labels), member.seed) for member in members]
        self.epoch = 0
        self._set_up()

    def run_epoch(self) -> list[Epoch]:
        """Train every member for one epoch and return each member's record of the training steps."""
        factor = learning_rate_factor(self.training, self.epoch)
        order = torch.stack([order.next_epoch() for order in self.orders])
        losses, correct = self._train(order, factor, trained_layers(self.training, self.epoch))
        self.epoch += 1
        images = order.shape[1]
        return [
            Epoch(self.epoch, loss / images, right / images, cast(float, member.optimizer.learning_rate) * factor)
            for member, loss, right in zip(self.members, losses, correct, strict=True)
        ]

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a state from :meth:`state`; only valid on a new trainer of the same members."""
        self._load(state)
        self.epoch = state["epoch"]
        for order in self.orders:
            for _ in range(self.epoch):
                order.next_epoch()

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return all state that later epochs depend on: weights, buffers, optimizers, epoch."""

    @abstractmethod
    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the state dict of a member's plain module."""

    @abstractmethod
    def _set_up(self) -> None:
        """Build what computes the steps."""

    @abstractmethod
    def _train(self, order: Tensor, factor: float, trained: range | None) -> tuple[Sequence[float], Sequence[int]]:
        """Train an epoch; return each member's sum of the images' losses, nats, and number of correct predictions.

        order: (E, n) indices of the images. factor: on the learning rates. trained: see :func:`trained_layers`.
        """

    @abstractmethod
    def _load(self, state: dict[str, Any]) -> None:
        """Load all of a state but the epoch and the data order."""


class DataOrder:
    """The order of the images in each epoch, which depends only on the seed."""

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self.stream = np.random.RandomState(seed)

    def next_epoch(self) -> Tensor:
        """Return the (n,) int64 indices of the next epoch."""
        order = np.arange(self.images, dtype=np.int32)
        self.stream.shuffle(order)
        return torch.from_numpy(order).long()


def learning_rate_factor(training: Training, epoch: int) -> float:
    """Return the factor on the learning rate in the epoch after ``epoch`` completed ones.

    A warm-up has the factors 1/w, 2/w, …; a cosine falls from 1 after it to the last epoch, (1 + cos(π t/T)) / 2.
    """
    if epoch < training.warmup:
        return (epoch + 1) / training.warmup
    if training.schedule == "cosine":
        progress = (epoch - training.warmup) / (training.epochs - training.warmup)
        return (1 + math.cos(math.pi * progress)) / 2
    return training.decay ** sum(milestone <= epoch for milestone in training.milestones)


def trained_layers(training: Training, epoch: int) -> range | None:
    """Return the layers, counted from 1, trained in the epoch after ``epoch`` completed ones; None for all."""
    started = [phase for phase in training.phases if phase.start <= epoch]
    return range(started[-1].first, started[-1].last + 1) if started else None
