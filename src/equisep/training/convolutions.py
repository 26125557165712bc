"""Engine for convolutional networks on a CPU, each on one core: autograd over the kernels of convolutions.cpp.

A network is traced, and each of its operations replaced by one for features of shape (channels, height, width, images).
Batch normalisation is one operation with the addition of a residual block and the rectifier that follow it; a bias
before it only shifts the running mean.
"""

import ctypes
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function

from equisep.training.engine import Program
from equisep.training.kernels import Kernels, load_kernels
from equisep.training.modules import ConvolutionalProgram
from equisep.training.population import Population

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
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


class NativeConvolutions(ConvolutionalProgram):
    """Networks one at a time; parameters are views of the stacked ones."""

    name = "native"

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Raises NoNativeKernels, and NotImplementedError for networks with operations that there are none for here."""
        load_kernels(Kernels.CONVOLUTIONS)
        super().__init__(networks)
        self.steps = [_trace(network) for network in self.networks]

    def logits(self, index: int, images: Tensor) -> Tensor:
        """See :meth:`ConvolutionalProgram.logits`."""
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
        add_step(node, _Normalise(norm, bias, rectified=rectifier is not None), node.args[0], *added)
        results.update(dict.fromkeys(fused, node.name))

    for node in fx.Tracer().trace(network).nodes:
        module = module_of(node)
        if node in results:
            continue
        if node.op == "placeholder":
            results[node] = ""
            add_step(node, _images_last, node)
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
            operation = partial(_convolve, module)
        case nn.Linear() if normalised or module.bias is None:
            operation = partial(_multiply, module)
        case nn.Linear():
            operation = partial(_multiply_and_add, module)
        case nn.MaxPool2d(
            kernel_size=int(), stride=int(), padding=int(), dilation=1, ceil_mode=False, return_indices=False
        ):
            operation = partial(_pool, module)
        case nn.AvgPool2d(kernel_size=int(), padding=0, ceil_mode=False, divisor_override=None) if (
            module.kernel_size == module.stride
        ):
            operation = partial(_average_windows, size=cast(int, module.kernel_size))
        case nn.AdaptiveAvgPool2d(output_size=1):
            operation = partial(torch.mean, dim=(1, 2), keepdim=True)
        case nn.ReLU(inplace=False):
            operation = torch.relu
        case nn.Flatten(start_dim=1, end_dim=-1):
            operation = _flatten
    return operation


def _operation_of_call(node: fx.Node) -> Operation | None:
    further, options = node.args[1:], dict(node.kwargs)
    match node.target:
        case "output":
            return torch.t
        case "flatten" if (further, options) == ((), {"start_dim": 1}):
            return _flatten
        case "repeat" if len(further) == 4 and isinstance(further[1], int) and further == (1, further[1], 1, 1):
            return partial(_repeat_channels, repeats=further[1])
        case operator.add if len(node.all_input_nodes) == 2:
            return torch.add
        case torch.cat if (further, options) == ((), {"dim": 1}):
            return _concatenate
    return None


def _keeps_size(module: nn.Conv2d) -> bool:
    kernel, *others = module.kernel_size
    same = others == [kernel] and module.padding == (kernel // 2, kernel // 2) and kernel % 2 == 1
    plain = (module.stride, module.dilation, module.groups) == ((1, 1), (1, 1), 1)
    return same and plain and module.padding_mode == "zeros"


def _convolve(module: nn.Conv2d, features: Tensor) -> Tensor:
    return cast(Tensor, _Convolve.apply(features, module.weight))


def _multiply(module: nn.Linear, features: Tensor) -> Tensor:
    return module.weight @ features


def _multiply_and_add(module: nn.Linear, features: Tensor) -> Tensor:
    return torch.addmm(module.bias[:, None], module.weight, features)


def _pool(module: nn.MaxPool2d, features: Tensor) -> Tensor:
    return cast(Tensor, _Pool.apply(features, module))


def _flatten(features: Tensor) -> Tensor:
    return features.flatten(end_dim=-2)


def _repeat_channels(features: Tensor, repeats: int) -> Tensor:
    return features.repeat(repeats, 1, 1, 1)


def _concatenate(*features: Tensor) -> Tensor:
    return torch.cat(features)


def _images_last(images: Tensor) -> Tensor:
    """Return (channels, height, width, n) features for (n, channels, height, width) images."""
    return images.permute(1, 2, 3, 0).contiguous()


def _average_windows(features: Tensor, size: int) -> Tensor:
    """Return the averages over windows of size × size pixels, as nn.AvgPool2d(size)."""
    channels, height, width, images = features.shape
    rows, columns = height // size, width // size
    whole = features[:, : rows * size, : columns * size]
    return whole.reshape(channels, rows, size, columns, size, images).mean(dim=(2, 4))


def _call(name: str, shape: ctypes.Structure, *tensors: Tensor | None) -> None:
    """Call a kernel of convolutions.cpp for the precision of the first tensor."""
    kind = {torch.float32: "float", torch.float64: "double"}[cast(Tensor, tensors[0]).dtype]
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    load_kernels(Kernels.CONVOLUTIONS)[f"{name}_{kind}"](ctypes.byref(shape), *pointers)


class _Shape(ctypes.Structure):
    """``Convolution`` of convolutions.cpp."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("images", "inputs", "outputs", "height", "width", "kernel"))


class _Convolve(Function):
    """Convolution of (inputs, height, width, n) features with (outputs, inputs, kernel, kernel) weights."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        """Return the (outputs, height, width, n) features."""
        ctx.save_for_backward(features, weight)
        return _convolution(features, weight)

    @staticmethod
    def backward(ctx: Any, derivative: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the derivatives by the features, where they are wanted, and by the weights."""
        features, weight = ctx.saved_tensors
        derivative, gradient = derivative.contiguous(), torch.empty_like(weight)
        _call("differentiate_weights", _shape_of(features, weight), features, derivative, gradient)
        # The derivative by the features is the convolution with the turned kernel.
        turned = weight.flip(2, 3).transpose(0, 1)
        return _convolution(derivative, turned) if ctx.needs_input_grad[0] else None, gradient


def _convolution(features: Tensor, weight: Tensor) -> Tensor:
    outputs = features.new_empty(len(weight), *features.shape[1:])
    arranged = weight.permute(2, 3, 1, 0).contiguous()
    _call("convolve", _shape_of(features, weight), features, arranged, outputs)
    return outputs


def _shape_of(features: Tensor, weight: Tensor) -> _Shape:
    _, height, width, images = features.shape
    outputs, inputs, kernel, _ = weight.shape
    return _Shape(images, inputs, outputs, height, width, kernel)


class _Statistics(ctypes.Structure):
    """``Normalisation`` of convolutions.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "length", "rectified")),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("gain", "shift", "mean", "variance", "inverse")),
    )


class _Normalise:
    """Batch normalisation, the addition of other features and the rectifier; updates the running statistics."""

    def __init__(self, norm: BatchNorm, bias: Tensor | None, *, rectified: bool) -> None:
        """bias: of the module before."""
        self.norm, self.bias, self.rectified = norm, bias, rectified

    def __call__(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the outputs, in the shape of the (channels, …) features."""
        norm = self.norm
        statistics = features.new_empty(3, len(features))
        outputs: Tensor = _NormaliseFunction.apply(
            features, norm.weight, norm.bias, self.bias, added, statistics, self.rectified, norm.eps
        )
        mean, variance, _ = statistics
        images = features[0].numel()
        with torch.no_grad():
            mean = mean if self.bias is None else mean + self.bias
            momentum = cast(float, norm.momentum)
            cast(Tensor, norm.running_mean).lerp_(mean, momentum)
            cast(Tensor, norm.running_var).lerp_(variance * (images / (images - 1)), momentum)
            cast(Tensor, norm.num_batches_tracked).add_(1)
        return outputs


class _NormaliseFunction(Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        gain: Tensor,
        shift: Tensor,
        bias: Tensor | None,
        added: Tensor | None,
        statistics: Tensor,
        rectified: bool,
        epsilon: float,
    ) -> Tensor:
        """Return the outputs; fills statistics (3, channels): mean, variance and 1/√(variance + epsilon).

        bias: of the features, left out of them: it has no effect. Raises ValueError if what is added has another shape.
        """
        if added is not None and added.shape != features.shape:
            raise ValueError(f"features of shape {tuple(added.shape)} are added to {tuple(features.shape)}")
        outputs = torch.empty_like(features)
        pointers = [tensor.data_ptr() for tensor in (gain, shift, *statistics)]
        ctx.norm = _Statistics(len(features), features[0].numel(), rectified, epsilon, *pointers)
        ctx.is_added = added is not None
        _call("normalise", ctx.norm, features, added, outputs)
        ctx.save_for_backward(features, outputs, gain, shift, statistics, bias)
        return outputs

    @staticmethod
    def backward(ctx: Any, derivative: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivatives by features, gain, shift, bias and what was added."""
        features, outputs, gain, shift, _, bias = ctx.saved_tensors
        gradients = (torch.empty_like(features), torch.empty_like(gain), torch.empty_like(shift))
        added = torch.empty_like(features) if ctx.is_added else None
        tensors = (derivative.contiguous(), features, outputs, gradients[0], added, *gradients[1:])
        _call("differentiate_normalisation", ctx.norm, *tensors)
        return *gradients, None if bias is None else torch.zeros_like(bias), added, None, None, None


class _Window(ctypes.Structure):
    """``Pooling`` of convolutions.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("images", "planes", "height", "width", "kernel", "stride", "padding"),
            *("pooled_height", "pooled_width"),
        )
    )


class _Pool(Function):
    """Maximum over windows of (channels, height, width, n) features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, module: nn.MaxPool2d) -> Tensor:
        """Return the maxima of each window of a module."""
        kernel, stride, padding = (cast(int, size) for size in (module.kernel_size, module.stride, module.padding))
        planes, *sizes, images = features.shape
        pooled = [(size + 2 * padding - kernel) // stride + 1 for size in sizes]
        ctx.window = _Window(images, planes, *sizes, kernel, stride, padding, *pooled)
        outputs = features.new_empty(planes, *pooled, images)
        chosen = torch.empty_like(outputs, dtype=torch.int32)
        _call("pool", ctx.window, features, outputs, chosen)
        ctx.save_for_backward(chosen)
        ctx.shape = features.shape
        return outputs

    @staticmethod
    def backward(ctx: Any, derivative: Tensor) -> tuple[Tensor, None]:
        """Return the derivative by the features."""
        (chosen,) = ctx.saved_tensors
        gradient = derivative.new_zeros(ctx.shape)
        _call("differentiate_pooling", ctx.window, derivative.contiguous(), chosen, gradient)
        return gradient, None
