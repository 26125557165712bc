"""Engine for the paper's feed-forward networks: explicit forward and backward passes, batched over networks.

Activations have the layout (network, channel, image), so that matrix products batch over networks and batch
normalisation reduces contiguous memory. The elementwise kernels can be compiled.
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from equisep.networks import FeedForwardNetwork
from equisep.training.engine import Program


def has_kernels(network: nn.Module) -> bool:
    """Whether :class:`FeedForwardProgram` supports a network."""
    return isinstance(network, FeedForwardNetwork) and network.normalised_and_rectified


class FeedForwardProgram(Program):
    """Feed-forward networks, Linear → BatchNorm → ReLU and a linear classifier, with explicit derivatives.

    With z = W x the output of a linear layer and ẑ = (z − mean) / √(var + ε) over the b images of a batch,
    the layer's output is y = max(0, γ ẑ + β). Backward, with g = ∂L/∂(γ ẑ + β):

        ∂L/∂β = Σ g      ∂L/∂γ = Σ g ẑ      ∂L/∂z = γ / √(var + ε) · (g − (Σ g + ẑ Σ g ẑ) / b)

    (Ioffe & Szegedy, 2015). The bias of the linear layer only shifts the mean: its gradient is zero, and it only enters
    the running mean.
    """

    name = "batched"

    def __init__(self, networks: Sequence[FeedForwardNetwork], *, compiled: bool) -> None:
        super().__init__(networks)
        self.norms = [cast(nn.BatchNorm1d, block[1]) for block in networks[0].hidden]  # type: ignore[index]
        self.running = [
            (self._stack_buffer(layer, "running_mean"), self._stack_buffer(layer, "running_var"))
            for layer in range(len(self.norms))
        ]
        self.steps = cast(Tensor, self.norms[0].num_batches_tracked).clone()
        self.kernels = _compiled_kernels() if compiled else KERNELS
        self.plans: dict[int, _Plan] = {}

    def step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Program.step`."""
        forward, backward, loss_and_derivative = self.kernels
        images = inputs.shape[1]
        if images not in self.plans:
            self.plans[images] = _Plan(self, images)
        plan = self.plans[images]
        rows = inputs.flatten(start_dim=2)
        outputs = rows.transpose(1, 2)
        with torch.no_grad():
            for layer in plan.layers:
                torch.bmm(layer.weight, outputs, out=layer.linear)
                forward(*layer.forward, layer.epsilon, layer.momentum)
                outputs = layer.outputs
            weight, bias = self.weights[-2:]
            torch.baddbmm(bias.unsqueeze(2), weight, outputs, out=plan.logits)
            loss, correct = loss_and_derivative(plan.logits, labels, plan.logits_derivative)
            torch.bmm(plan.logits_derivative, outputs.transpose(1, 2), out=self.gradients[-2])
            torch.sum(plan.logits_derivative, dim=2, out=self.gradients[-1])
            torch.bmm(weight.transpose(1, 2), plan.logits_derivative, out=plan.layers[-1].outputs_derivative)
            for previous, layer in zip([None, *plan.layers[:-1]][::-1], plan.layers[::-1], strict=True):
                backward(*layer.backward)
                if previous is None:
                    torch.bmm(layer.linear_derivative, rows, out=layer.weight_derivative)
                else:
                    torch.bmm(layer.linear_derivative, previous.outputs_transposed, out=layer.weight_derivative)
                    torch.bmm(layer.weight_transposed, layer.linear_derivative, out=previous.outputs_derivative)
            self.steps += 1
        return loss, correct

    def module(self, index: int) -> FeedForwardNetwork:
        """See :meth:`Program.module`."""
        network = cast(FeedForwardNetwork, super().module(index))
        for block, (mean, variance) in zip(network.hidden, self.running, strict=True):
            norm = cast(nn.BatchNorm1d, block[1])  # type: ignore[index]
            cast(Tensor, norm.running_mean).copy_(mean[index])
            cast(Tensor, norm.running_var).copy_(variance[index])
            cast(Tensor, norm.num_batches_tracked).copy_(self.steps)
        return network

    def buffers(self) -> list[Tensor]:
        """See :meth:`Program.buffers`."""
        return [self.steps, *(tensor for pair in self.running for tensor in pair)]

    def _stack_buffer(self, layer: int, name: str) -> Tensor:
        blocks = [cast(FeedForwardNetwork, network).hidden[layer] for network in self.networks]
        return torch.stack([cast(Tensor, getattr(block[1], name)) for block in blocks])  # type: ignore[index]


class _Layer:
    """A hidden layer of all networks for one batch size: its memory and the arguments of its kernels."""

    def __init__(self, program: FeedForwardProgram, index: int, images: int, shared: dict[str, Tensor]) -> None:
        self.epsilon = program.norms[index].eps
        self.momentum = cast(float, program.norms[index].momentum)
        self.weight, bias, gamma, beta = program.weights[4 * index : 4 * index + 4]
        self.weight_transposed = self.weight.transpose(1, 2)
        self.weight_derivative, _, gamma_derivative, beta_derivative = program.gradients[4 * index : 4 * index + 4]
        networks, channels, _ = self.weight.shape
        self.linear = self.weight.new_empty(networks, channels, images)
        self.outputs = torch.empty_like(self.linear)
        self.outputs_transposed = self.outputs.transpose(1, 2)
        mean = self.weight.new_empty(networks, channels, 1)
        scale = torch.empty_like(mean)
        # Shared by layers of one width: each derivative is used before the next such layer overwrites it.
        self.linear_derivative = shared.setdefault(f"linear {channels}", torch.empty_like(self.linear))
        self.outputs_derivative = shared.setdefault(f"outputs {channels}", torch.empty_like(self.linear))
        self.forward = (self.linear, bias, gamma, beta, self.outputs, mean, scale, *program.running[index])
        self.backward = (
            *(self.outputs_derivative, self.linear, self.outputs, mean, scale, gamma),
            *(self.linear_derivative, gamma_derivative, beta_derivative),
        )


class _Plan:
    """The memory of a step for one batch size."""

    def __init__(self, program: FeedForwardProgram, images: int) -> None:
        shared: dict[str, Tensor] = {}
        self.layers = [_Layer(program, index, images, shared) for index in range(len(program.norms))]
        networks, classes = program.weights[-1].shape
        self.logits = program.weights[-1].new_empty(networks, classes, images)
        self.logits_derivative = torch.empty_like(self.logits)


def _normalise_forward(
    linear: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    outputs: Tensor,
    mean: Tensor,
    scale: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    epsilon: float,
    momentum: float,
) -> None:
    """Write batch normalisation and ReLU of linear (E, C, b) to outputs, with mean and scale = 1/√(var + ε)."""
    images = linear.shape[2]
    variance, centre = torch.var_mean(linear, dim=2, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    outputs.copy_(torch.relu((linear - centre) * (inverse * gamma.unsqueeze(2)) + beta.unsqueeze(2)))
    mean.copy_(centre)
    scale.copy_(inverse)
    unbiased = variance.squeeze(2) * (images / (images - 1))
    running_mean.copy_((1 - momentum) * running_mean + momentum * (centre.squeeze(2) + bias))
    running_variance.copy_((1 - momentum) * running_variance + momentum * unbiased)


def _normalise_backward(
    outputs_derivative: Tensor,
    linear: Tensor,
    outputs: Tensor,
    mean: Tensor,
    scale: Tensor,
    gamma: Tensor,
    linear_derivative: Tensor,
    gamma_derivative: Tensor,
    beta_derivative: Tensor,
) -> None:
    """Propagate a derivative (E, C, b) back through ReLU and batch normalisation, into the last three."""
    # In terms of z − mean, with factors that are constant along a row combined first: a quarter less arithmetic per
    # value than in the textbook order.
    centred = linear - mean
    passed = torch.where(outputs > 0, outputs_derivative, 0.0)
    beta_sum = passed.sum(dim=2, keepdim=True)
    gamma_sum = (passed * centred).sum(dim=2, keepdim=True) * scale
    factor = gamma.unsqueeze(2) * scale
    constant = factor * beta_sum * (-1 / linear.shape[2])
    slope = factor * scale * gamma_sum * (-1 / linear.shape[2])
    linear_derivative.copy_(factor * passed + (slope * centred + constant))
    gamma_derivative.copy_(gamma_sum.squeeze(2))
    beta_derivative.copy_(beta_sum.squeeze(2))


def _loss_and_derivative(logits: Tensor, labels: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean cross-entropy and number correct (E,) of logits (E, K, b); write the loss's derivative."""
    classes, images = logits.shape[1:]
    logarithm = torch.log_softmax(logits, dim=1)
    target = labels.unsqueeze(1) == torch.arange(classes, device=labels.device).view(1, classes, 1)
    derivative.copy_((logarithm.exp() - target.to(logits.dtype)) * (1 / images))
    loss = -torch.where(target, logarithm, 0.0).sum(dim=(1, 2)) * (1 / images)
    return loss, (logits.argmax(dim=1) == labels).sum(dim=1)


KERNELS: tuple[Callable[..., Any], ...] = (_normalise_forward, _normalise_backward, _loss_and_derivative)


@lru_cache(maxsize=1)
def _compiled_kernels() -> tuple[Callable[..., Any], ...]:
    """Return the kernels through torch.compile; one compilation serves layers, depths and epochs of a shape."""
    # With a CUDA toolkit but no GPU torch warns at each first compilation, even for the CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Widths, members and batch sizes give more shapes than the default limit of 8.
    torch._dynamo.config.recompile_limit = 64
    return tuple(torch.compile(kernel, dynamic=False) for kernel in KERNELS)
