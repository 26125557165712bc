"""Engines for any module: batched over networks by torch.func, or one network at a time by autograd."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import cross_entropy

from equisep.measures import Loss
from equisep.training.engine import Program


class ModuleProgram(Program):
    """Any networks: functional_call with stacked parameters and buffers, batched by vmap."""

    name = "vmap"

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self.names = [name for name, _ in networks[0].named_parameters()]
        _, self.stacked_buffers = stack_module_state(self.networks)
        self.template = networks[0]

    def step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Program.step`."""
        self.template.train()

        def logits_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Tensor) -> Tensor:
            return cast(Tensor, functional_call(self.template, (parameters, buffers), (batch,)))

        weights = [weight.detach().requires_grad_() for weight in self.weights]
        named = dict(zip(self.names, weights, strict=True))
        logits = torch.vmap(logits_of, randomness="different")(named, self.stacked_buffers, inputs)
        loss = torch.vmap(cross_entropy)(logits, labels)
        # Networks are independent, so that the gradient of the sum of losses is the gradient of each.
        for gradient, derivative in zip(
            self.gradients, torch.autograd.grad(loss.sum(), weights, materialize_grads=True), strict=True
        ):
            gradient.copy_(derivative)
        return loss.detach(), (logits.detach().argmax(dim=2) == labels).sum(dim=1)

    def module(self, index: int) -> nn.Module:
        """See :meth:`Program.module`."""
        network = super().module(index)
        for name, buffer in network.named_buffers():
            buffer.copy_(self.stacked_buffers[name][index])
        return network

    def buffers(self) -> list[Tensor]:
        """See :meth:`Program.buffers`."""
        return list(self.stacked_buffers.values())


class PlainProgram(Program):
    """Networks one at a time, by plain module and autograd; parameters are views of the stacked ones."""

    name = "autograd"

    def __init__(self, networks: Sequence[nn.Module], loss: Loss = cross_entropy) -> None:
        super().__init__(networks)
        self.loss = loss
        self.draws: list[np.random.Generator] = []
        """Of the seeds of each network's steps; none where no module draws random numbers."""
        for index, network in enumerate(self.networks):
            for parameter, weight in zip(network.parameters(), self.weights, strict=True):
                parameter.data = weight[index]

    def step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Program.step`."""
        losses, correct = [], []
        for index, network in enumerate(self.networks):
            network.train()
            if self.draws:
                torch.manual_seed(int(self.draws[index].integers(2**63)))
            logits = self.logits(index, inputs[index])
            loss = self.loss(logits, labels[index])
            # A module of the user's may have parameters that its output does not depend on.
            derivatives = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
            for gradient, derivative in zip(self.gradients, derivatives, strict=True):
                gradient[index] = derivative
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(dim=1) == labels[index]).sum())
        return torch.stack(losses), torch.stack(correct)

    def logits(self, index: int, images: Tensor) -> Tensor:
        """Return the (b, classes) logits of a network for (b, channels, height, width) images, in training mode."""
        return cast(Tensor, self.networks[index](images))

    def module(self, index: int) -> nn.Module:
        """See :meth:`Program.module`."""
        return self.networks[index]

    def buffers(self) -> list[Tensor]:
        """See :meth:`Program.buffers`."""
        return [buffer for network in self.networks for buffer in network.buffers()]
