"""A population of networks through its schedule, epoch by epoch, with a state to save and take up bit for bit.

The protocol is the released code's: the data order of an epoch is ``numpy.random.shuffle`` of
arange(n) from a stream seeded once per run, the last partial batch is kept, the learning rate is
multiplied by a constant at milestones, weight decay is L2 on every parameter. Where the schedule has
phases, the layers that do not learn in one are held: their weights do not move (unless frozen_decay
is set), their batch normalisation goes on with batch statistics and goes on updating the running ones.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from equisep.config import ConfigError, Optimizer, Training
from equisep.data import Split
from equisep.measures import Epoch
from equisep.networks import FeedForwardNetwork, Network, gains_from_batching
from equisep.training.engine import Program
from equisep.training.feed_forward import FeedForwardProgram, has_kernels
from equisep.training.modules import ConvolutionalProgram, ModuleProgram


def build_program(networks: Sequence[nn.Module], *, compiled: bool) -> Program:
    """Return the fastest program for networks of one shape, which goes on from their present weights and buffers."""
    feed_forward = [network for network in networks if has_kernels(network)]
    if len(feed_forward) == len(networks):
        return FeedForwardProgram(cast(list[FeedForwardNetwork], feed_forward), compiled=compiled)
    return ModuleProgram(networks) if gains_from_batching(networks[0]) else ConvolutionalProgram(networks)


@dataclass(frozen=True)
class Member:
    """One network of a population: initialised and on the device, with its data, its optimizer and its seed."""

    network: nn.Module
    split: Split
    optimizer: Optimizer
    seed: int


class Population:
    """Networks on their way through one schedule, as one program; what becomes of one does not touch the others."""

    def __init__(self, members: Sequence[Member], training: Training, *, compiled: bool = False) -> None:
        """members: of one shape, with equally many images. training: the schedule. compiled: the kernels, where any."""
        self.members = tuple(members)
        self.training = training
        self.program = build_program([member.network for member in members], compiled=compiled)
        self.optimizers = _build_optimizers(self.program, [member.optimizer for member in members])
        self.parameter_layers = _parameter_layers(members[0].network, training)
        self.orders = [DataOrder(len(member.split.labels), member.seed) for member in members]
        splits = list(dict.fromkeys(member.split for member in members))
        self.inputs = torch.stack([split.inputs for split in splits])
        self.labels = torch.stack([split.labels for split in splits])
        which = [splits.index(member.split) for member in members]
        self.which_split = torch.tensor(which, device=self.labels.device)[:, None]
        self.epoch = 0

    def run_epoch(self) -> list[Epoch]:
        """Train every member one epoch and return what its steps saw, member by member."""
        self._hold_layers()
        factor = learning_rate_factor(self.training, self.epoch)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        order = torch.stack([order.next_epoch() for order in self.orders]).to(self.labels.device)
        loss_sum = torch.zeros(len(self.members), dtype=torch.float64, device=order.device)
        correct_sum = torch.zeros(len(self.members), dtype=torch.int64, device=order.device)
        for batch in torch.split(order, self.training.batch_size, dim=1):
            loss, correct = self.program.step(
                self.inputs[self.which_split, batch], self.labels[self.which_split, batch]
            )
            for optimizer in self.optimizers:
                optimizer.step()
            loss_sum += loss * batch.shape[1]
            correct_sum += correct
        self.epoch += 1
        losses, accuracies = loss_sum / order.shape[1], correct_sum / order.shape[1]
        return [
            Epoch(self.epoch, loss, accuracy, cast(float, member.optimizer.learning_rate) * factor)
            for member, loss, accuracy in zip(self.members, losses.tolist(), accuracies.tolist(), strict=True)
        ]

    def _hold_layers(self) -> None:
        """Give the optimizers the gradients of the layers that learn now, and of the others none, or zeros."""
        learning = learning_layers(self.training, self.epoch)
        if learning is None:
            return
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                stretch = slice(group["start"], group["end"])
                for parameter, gradient, layer in zip(
                    group["params"], self.program.gradients, self.parameter_layers, strict=True
                ):
                    if layer in learning:
                        parameter.grad = gradient[stretch]
                    else:
                        parameter.grad = torch.zeros_like(parameter) if self.training.frozen_decay else None

    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights and buffers of a member, by the names of its plain module."""
        return dict(self.program.module(index).state_dict())

    def state(self) -> dict[str, Any]:
        """Return all that the epochs to come depend on: weights, buffers, optimizers, epoch."""
        return {
            "epoch": self.epoch,
            "weights": self.program.weights,
            "buffers": self.program.buffers(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` returned; only valid on a fresh population of the same members."""
        for tensors, name in ((self.program.weights, "weights"), (self.program.buffers(), "buffers")):
            for tensor, saved in zip(tensors, state[name], strict=True):
                tensor.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.epoch = state["epoch"]
        for order in self.orders:
            for _ in range(self.epoch):
                order.next_epoch()


def _build_optimizers(program: Program, configs: Sequence[Optimizer]) -> list[torch.optim.Optimizer]:
    """Return torch.optim's optimizers: one a kind, in it a group for each stretch of members with equal settings."""
    groups: dict[str, list[dict[str, Any]]] = {}
    start = 0
    for config, stretch in itertools.groupby(configs):
        end = start + len(list(stretch))
        blocks = [nn.Parameter(weight[start:end]) for weight in program.weights]
        for block, gradient in zip(blocks, program.gradients, strict=True):
            block.grad = gradient[start:end]
        settings: dict[str, Any] = {"weight_decay": config.weight_decay, "start": start, "end": end}
        settings |= {"lr": config.learning_rate, "initial_lr": config.learning_rate}
        if config.kind == "sgd":
            settings["momentum"] = config.momentum
        groups.setdefault(config.kind, []).append({"params": blocks, **settings})
        start = end
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return [kinds[kind](settings, fused=True) for kind, settings in groups.items()]


def _parameter_layers(network: nn.Module, training: Training) -> list[int]:
    if not training.phases:
        return []
    if not isinstance(network, Network):
        raise ConfigError("training.phases: the network does not say which parameter belongs to which layer")
    return network.parameter_layers()


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


def learning_layers(training: Training, epoch: int) -> range | None:
    """Return the layers, counted from 1, that learn in the epoch after ``epoch`` finished ones; None for all."""
    begun = [phase for phase in training.phases if phase.start <= epoch]
    return range(begun[-1].first, begun[-1].last + 1) if begun else None
