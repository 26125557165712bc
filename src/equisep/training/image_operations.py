"""The operations of convolutional networks for features of shape (channels, height, width, images), with derivatives.

Batch normalisation is one operation with the addition of a residual block and the rectifier that follow it. The others
are torch's or kernels of convolutions.cpp.
"""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from equisep.training.kernels import Kernels, load_kernels

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def convolve(module: nn.Conv2d, features: Tensor) -> Tensor:
    """Return the convolution of (inputs, height, width, n) features, without the bias."""
    return cast(Tensor, _Convolve.apply(features, module.weight))


def multiply(module: nn.Linear, features: Tensor) -> Tensor:
    """Return W x for (inputs, n) features, without the bias."""
    return module.weight @ features


def multiply_and_add(module: nn.Linear, features: Tensor) -> Tensor:
    """Return W x + b for (inputs, n) features."""
    return torch.addmm(module.bias[:, None], module.weight, features)


def pool(module: nn.MaxPool2d, features: Tensor) -> Tensor:
    """Return the maxima over the windows of a module."""
    return cast(Tensor, _Pool.apply(features, module))


def flatten(features: Tensor) -> Tensor:
    """Return (features, n) for (channels, height, width, n)."""
    return features.flatten(end_dim=-2)


def repeat_channels(features: Tensor, repeats: int) -> Tensor:
    """Return all channels, repeated in turn."""
    return features.repeat(repeats, 1, 1, 1)


def concatenate(*features: Tensor) -> Tensor:
    """Return the channels of all features."""
    return torch.cat(features)


def images_last(images: Tensor) -> Tensor:
    """Return (channels, height, width, n) features for (n, channels, height, width) images."""
    return images.permute(1, 2, 3, 0).contiguous()


def average_windows(features: Tensor, size: int) -> Tensor:
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


class Normalise:
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
