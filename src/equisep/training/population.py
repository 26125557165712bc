"""Training of a population: networks of one shape in one batched program, on the schedule of schedule.py."""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from equisep.config import ConfigError, Optimizer, Training, nearest
from equisep.measures import LOSSES
from equisep.networks import (
    FeedForwardNetwork,
    Network,
    gains_from_batching,
    is_ours,
    other_generators,
)
from equisep.training.engine import Program
from equisep.training.feed_forward import FeedForwardProgram, has_kernels
from equisep.training.modules import ModuleProgram, PlainProgram
from equisep.training.schedule import Member, Trainer


def build_program(networks: Sequence[nn.Module], *, compiled: bool) -> Program:
    """Return the fastest program for networks of one shape, starting from their weights and buffers."""
    kind = _kind_of_program(networks[0], len(networks))
    if kind is FeedForwardProgram:
        return FeedForwardProgram(cast(Sequence[FeedForwardNetwork], networks), compiled=compiled)
    return kind(networks)


def engine_of(network: nn.Module, members: int, optimizer: Optimizer, training: Training) -> str:
    """Return the name of the program that trains a population of so many networks."""
    return (_kind_of_program(network, members) if follows_protocol(optimizer, training) else PlainProgram).name


def follows_protocol(optimizer: Optimizer, training: Training) -> bool:
    """Whether optimizer and loss are the paper's, which all engines know; with others networks train one by one."""
    return optimizer.kind in Optimizer.KINDS and training.loss == Training.LOSSES[0]


def _kind_of_program(network: nn.Module, members: int) -> type[Program]:
    if has_kernels(network):
        return FeedForwardProgram
    if not is_ours(network):
        # Planned together only where they can be.
        return ModuleProgram if members > 1 else PlainProgram
    return ModuleProgram if gains_from_batching(network) else PlainProgram


# Classes of torch.optim that gradients alone do not suffice for.
OTHER_OPTIMIZERS = {"LBFGS": "the loss at several points of a step", "SparseAdam": "sparse gradients"}


class Population(Trainer):
    """Networks trained by one program."""

    def __init__(self, members: Sequence[Member], training: Training, *, compiled: bool = False) -> None:
        """members: of one shape, with equally many images. compiled: whether to compile the feed-forward kernels."""
        self.compiled = compiled
        super().__init__(members, training)

    def _set_up(self) -> None:
        self.program = self._build_program([member.network for member in self.members])
        self.engine = self.program.name
        self.optimizers = _build_optimizers(self.program, [member.optimizer for member in self.members])
        self.parameter_layers = _parameter_layers(self.members[0].network) if self.training.phases else []
        splits = list(dict.fromkeys(member.split for member in self.members))
        self.inputs = torch.stack([split.inputs for split in splits])
        self.labels = torch.stack([split.labels for split in splits])
        which = [splits.index(member.split) for member in self.members]
        self.which_split = torch.tensor(which, device=self.labels.device)[:, None]

    def _build_program(self, networks: Sequence[nn.Module]) -> Program:
        if not follows_protocol(self.members[0].optimizer, self.training):
            return PlainProgram(networks, LOSSES[self.training.loss])
        return build_program(networks, compiled=self.compiled)

    def _train(self, order: Tensor, factor: float, trained: range | None) -> tuple[list[float], list[int]]:
        if is_ours(self.members[0].network) or not isinstance(self.program, PlainProgram):
            return self._pass(order, factor, trained)
        # Other modules may draw random numbers, as dropout does.
        self.program.draws = [np.random.default_rng([member.seed, self.epoch]) for member in self.members]
        devices = [self.labels.device.index or 0] if self.labels.device.type == "cuda" else []
        seed = np.random.SeedSequence([self.members[0].seed, self.epoch]).generate_state(1)
        with torch.random.fork_rng(devices=devices), other_generators(int(seed[0])):
            return self._pass(order, factor, trained)

    def _pass(self, order: Tensor, factor: float, trained: range | None) -> tuple[list[float], list[int]]:
        self._freeze_layers(trained)
        for group in self._parameter_groups():
            group["lr"] = group["initial_lr"] * factor
        order = order.to(self.labels.device)
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
        return loss_sum.tolist(), correct_sum.tolist()

    def _parameter_groups(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers)

    def _freeze_layers(self, trained: range | None) -> None:
        """Assign gradients to the parameters of trained layers, and None, or zeros, to those of frozen layers."""
        if trained is None:
            return
        for group in self._parameter_groups():
            members = slice(group["start"], group["end"])
            parameters = zip(group["params"], self.program.gradients, self.parameter_layers, strict=True)
            for parameter, gradient, layer in parameters:
                frozen = torch.zeros_like(parameter) if self.training.frozen_decay else None
                own = gradient[members] if parameter.ndim == gradient.ndim else gradient[0]
                parameter.grad = own if layer in trained else frozen

    def weights(self, index: int) -> dict[str, Tensor]:
        """See :meth:`Trainer.weights`."""
        return dict(self.program.module(index).state_dict())

    def state(self) -> dict[str, Any]:
        """See :meth:`Trainer.state`."""
        return {
            "epoch": self.epoch,
            "weights": self.program.weights,
            "buffers": self.program.buffers(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def _load(self, state: dict[str, Any]) -> None:
        for tensors, name in ((self.program.weights, "weights"), (self.program.buffers(), "buffers")):
            for tensor, saved in zip(tensors, state[name], strict=True):
                tensor.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _build_optimizers(program: Program, configs: Sequence[Optimizer]) -> list[torch.optim.Optimizer]:
    """Return an optimizer per kind, with a parameter group per run of consecutive members with equal settings.

    One of another class of torch.optim than the paper's has a network's own parameters, since its rule may depend on
    their shapes; it trains one network. Raises ConfigError for arguments that it does not accept.
    """
    if configs[0].kind not in Optimizer.KINDS:
        return [_build_other(program, configs[0])]
    groups: dict[str, list[dict[str, Any]]] = {}
    start = 0
    for config, members in itertools.groupby(configs):
        end = start + len(list(members))
        parameters = [nn.Parameter(weight[start:end]) for weight in program.weights]
        for parameter, gradient in zip(parameters, program.gradients, strict=True):
            parameter.grad = gradient[start:end]
        group: dict[str, Any] = {"params": parameters, "weight_decay": config.weight_decay, "start": start, "end": end}
        group |= {"lr": config.learning_rate, "initial_lr": config.learning_rate}
        if config.kind == "sgd":
            group["momentum"] = config.momentum
        groups.setdefault(config.kind, []).append(group)
        start = end
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return [kinds[kind](settings, fused=True) for kind, settings in groups.items()]


def _build_other(program: Program, config: Optimizer) -> torch.optim.Optimizer:
    parameters = [nn.Parameter(weight[0]) for weight in program.weights]
    for parameter, gradient in zip(parameters, program.gradients, strict=True):
        parameter.grad = gradient[0]
    optimizer = build_optimizer(config, parameters)
    for group in optimizer.param_groups:
        group |= {"start": 0, "end": 1, "initial_lr": config.learning_rate}
    return optimizer


def build_optimizer(config: Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer of torch.optim for parameters, by the name of its class.

    Raises ConfigError for a name that torch.optim does not have, for one that needs more than gradients, and for
    arguments that it does not accept.
    """
    known = sorted(name for name, kind in vars(torch.optim).items() if _is_optimizer(kind))
    field = f"optimizer.kind={config.kind}"
    if config.kind in OTHER_OPTIMIZERS:
        raise ConfigError(f"{field}: is not supported, it needs {OTHER_OPTIMIZERS[config.kind]}")
    if config.kind not in known:
        hint = nearest(config.kind, known) or f"; choose sgd, adam or one of {', '.join(known)}"
        raise ConfigError(f"{field}: torch.optim has no such class{hint}")
    kind = getattr(torch.optim, config.kind)
    accepted = inspect.signature(kind).parameters
    given: dict[str, Any] = {"lr": config.learning_rate, **config.arguments}
    for name in ("momentum", "weight_decay"):
        if name in accepted:
            given.setdefault(name, getattr(config, name))
        elif getattr(config, name):
            raise ConfigError(f"optimizer.{name}={getattr(config, name)}: {config.kind} has none; set 0")
    try:
        return cast(torch.optim.Optimizer, kind(parameters, **given))
    except (TypeError, ValueError) as error:
        problem = f"{str(error).splitlines()[0]}; its arguments are {', '.join(list(accepted)[1:])}"
        raise ConfigError(f"{field}, optimizer.arguments={config.arguments}: {problem}") from None


def _is_optimizer(kind: Any) -> bool:
    """Whether a name of torch.optim is that of an optimizer that dense gradients suffice for."""
    if not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer) or kind is torch.optim.Optimizer:
        return False
    return kind.__name__ not in OTHER_OPTIMIZERS


def _parameter_layers(network: nn.Module) -> list[int]:
    if not isinstance(network, Network):
        raise ConfigError(
            "training.phases: the network does not assign its parameters to layers; set training.phases=[]"
        )
    return network.parameter_layers()
