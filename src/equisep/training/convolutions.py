"""Engine for convolutional networks on a CPU, each on one core: autograd over the kernels of convolutions.cpp.

A network is traced, and each of its operations replaced by one of image_operations.py, with the images as the last
dimension. A bias before batch normalisation only shifts the running mean.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from equisep.training.engine import Program
from equisep.training.image_operations import (
    BatchNorm,
    Normalise,
    average_windows,
    concatenate,
    convolve,
    flatten,
    images_last,
    multiply,
    multiply_and_add,
    pool,
    repeat_channels,
)
from equisep.training.kernels import Kernels, load_kernels
from equisep.training.modules import PlainProgram
from equisep.training.population import Population

Operation = Callable[..., Tensor]


class NativeConvolutionalTraining(Population):
    """A network trained by :class:`NativeConvolutions`; raises NoNativeKernels."""

    def _build_program(self, networks: Sequence[nn.Module]) -> Program:
        return NativeConvolutions(networks)

    def _train(self, order: Tensor, factor: float, trained: range | None) -> tuple[list[float], list[int]]:
        # The bits of some of torch's operations depend on the threads.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super()._train(order, factor, trained)
        finally:
            torch.set_num_threads(threads)


class NativeConvolutions(PlainProgram):
    """Networks one at a time; parameters are views of the stacked ones."""

    name = "native"

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Raises NoNativeKernels, and NotImplementedError for networks with operations that there are none for here."""
        load_kernels(Kernels.CONVOLUTIONS)
        super().__init__(networks)
        self.steps = [_trace(network) for network in self.networks]

    def logits(self, index: int, images: Tensor) -> Tensor:
        """See :meth:`PlainProgram.logits`."""
        results = {"": images}
        for step in self.steps[index]:
            results[step.name] = step.operation(*(results[name] for name in step.arguments))
        return results["output"]


@dataclass(frozen=True)
class _Step:
    """An operation of a network: the names of its result and of the results that it takes."""

    name: str
    operation: Operation
    arguments: tuple[str, ...]


def _trace(network: nn.Module) -> list[_Step]:
    """Return the operations of a network in order; raises NotImplementedError for one that there is none for."""
    steps: list[_Step] = []
    # The step whose result a node has: an earlier one for what only changes the layout, and for what was fused.
    results: dict[fx.Node, str] = {}
    modules = dict(network.named_modules())

    def module_of(node: Any) -> nn.Module | None:
        return modules[node.target] if isinstance(node, fx.Node) and node.op == "call_module" else None

    def next_of(node: Any) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def add_step(node: fx.Node, operation: Operation, *arguments: Any) -> None:
        steps.append(_Step(node.name, operation, tuple(results[argument] for argument in arguments)))
        results[node] = node.name

    def add_normalisation(node: fx.Node, norm: BatchNorm) -> None:
        before, added = module_of(node.args[0]), []
        fused, following = [], next_of(node)
        if following is not None and following.target is operator.add:
            others = [argument for argument in following.args if argument is not node]
            # Only what has been computed before can be added here.
            if len(others) == 1 and others[0] in results:
                added, fused, following = others, [following], next_of(following)
        rectifier = following if isinstance(module_of(following), nn.ReLU) else None
        fused += [rectifier] if rectifier else []
        # It was left out there: see _operation.
        left_out = isinstance(before, nn.Conv2d | nn.Linear) and next_of(node.args[0]) is node
        bias = cast(nn.Linear, before).bias if left_out else None
        add_step(node, Normalise(norm, bias, rectified=rectifier is not None), node.args[0], *added)
        results.update(dict.fromkeys(fused, node.name))

    for node in fx.Tracer().trace(network).nodes:
        module = module_of(node)
        if node in results:
            continue
        if node.op == "placeholder":
            results[node] = ""
            add_step(node, images_last, node)
        elif isinstance(module, BatchNorm) and module.affine and module.track_running_stats and module.momentum:
            add_normalisation(node, module)
        elif node.op == "call_method" and node.target == "contiguous":
            results[node] = results[node.args[0]]
        else:
            inputs = node.args[0] if node.target is torch.cat else node.all_input_nodes
            normalised = isinstance(module_of(next_of(node)), BatchNorm)
            add_step(node, _operation(node, module, normalised=normalised), *inputs)
    return steps


def _operation(node: fx.Node, module: nn.Module | None, *, normalised: bool) -> Operation:
    """Return the operation of a node; raises NotImplementedError. normalised: whether batch normalisation follows."""
    operation = _operation_of_call(node) if module is None else _operation_of_module(module, normalised=normalised)
    if operation is None:
        raise NotImplementedError(f"no operation for {module or node.target}")
    return operation


def _operation_of_module(module: nn.Module, *, normalised: bool) -> Operation | None:
    operation: Operation | None = None
    match module:
        case nn.Conv2d() if _keeps_size(module) and (normalised or module.bias is None):
            operation = partial(convolve, module)
        case nn.Linear() if normalised or module.bias is None:
            operation = partial(multiply, module)
        case nn.Linear():
            operation = partial(multiply_and_add, module)
        case nn.MaxPool2d(
            kernel_size=int(), stride=int(), padding=int(), dilation=1, ceil_mode=False, return_indices=False
        ):
            operation = partial(pool, module)
        case nn.AvgPool2d(kernel_size=int(), padding=0, ceil_mode=False, divisor_override=None) if (
            module.kernel_size == module.stride
        ):
            operation = partial(average_windows, size=cast(int, module.kernel_size))
        case nn.AdaptiveAvgPool2d(output_size=1):
            operation = partial(torch.mean, dim=(1, 2), keepdim=True)
        case nn.ReLU(inplace=False):
            operation = torch.relu
        case nn.Flatten(start_dim=1, end_dim=-1):
            operation = flatten
    return operation


def _operation_of_call(node: fx.Node) -> Operation | None:
    further, options = node.args[1:], dict(node.kwargs)
    match node.target:
        case "output":
            return torch.t
        case "flatten" if (further, options) == ((), {"start_dim": 1}):
            return flatten
        case "repeat" if len(further) == 4 and isinstance(further[1], int) and further == (1, further[1], 1, 1):
            return partial(repeat_channels, repeats=further[1])
        case operator.add if len(node.all_input_nodes) == 2:
            return torch.add
        case torch.cat if (further, options) == ((), {"dim": 1}):
            return concatenate
    return None


def _keeps_size(module: nn.Conv2d) -> bool:
    kernel, *others = module.kernel_size
    same = others == [kernel] and module.padding == (kernel // 2, kernel // 2) and kernel % 2 == 1
    plain = (module.stride, module.dilation, module.groups) == ((1, 1), (1, 1), 1)
    return same and plain and module.padding_mode == "zeros"
