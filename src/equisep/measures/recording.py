"""The outputs of a network's modules, recorded in forward passes that leave the network as it was.

All measured layers of a pass are recorded by hooks: nothing is traced, so that any module can be measured.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

INPUT = "input"
BATCH_NORMS = ("batch", "running", "expected")
POOLINGS = ("flatten", "mean", "first", "last", "each")
# Axes of a layer's values: n images or texts, t tokens, h and w places, c channels, d features.
SHAPES = {2: "n d", 3: "n t d", 4: "n c h w"}
Element = int | str | Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """What is recorded as a layer.

    name: for people. module: in ``network.named_modules()``. call: which call of a module that runs several times, from
    1; None for one that runs once. before: whether its input is recorded instead of its output. element: the part of a
    tuple, list, mapping or ModelOutput: an index, a name or a function of the output; None for its first tensor.
    shape: the axes of the values, such as ``n t d``, ``t n d``, ``n c h w``; None for that of :data:`SHAPES`.
    pooling: how the axes of tokens or places become features: ``flatten``, ``mean``, ``first`` or ``last`` token,
    ``each`` token or place as a point of its own.
    """

    name: str
    module: str
    call: int | None = None
    before: bool = False
    element: Element | None = None
    shape: str | None = None
    pooling: str = "flatten"

    def rows(self, output: Any, points: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the features of a batch, (points, p) and None; if each token is a point, (rows, p) and rows per input.

        output: of the module. points: in the batch. mask: (points, t), 1 at tokens that count; ``mean``, ``last`` and
        ``each`` leave the others out. Raises ValueError, which names the layer, for a batch axis that is not first.
        """
        values = self._tensor(output)
        if values.ndim < 2:
            raise ValueError(f"layer {self.name!r} returns shape {tuple(values.shape)}, not one row per image")
        axes = (self.shape or SHAPES.get(values.ndim, "n" + " d" * (values.ndim - 1))).split()
        if len(axes) != values.ndim:
            raise ValueError(f"layer {self.name!r}: shape {' '.join(axes)!r} does not fit {tuple(values.shape)}")
        if values.shape[axes.index("n")] != points:
            axis = next((axis for axis, size in enumerate(values.shape) if size == points), None)
            found = f"layer {self.name!r} has features of shape {tuple(values.shape)} for {points} images"
            if axis is None:
                raise ValueError(f"{found}, not one row per image")
            declared = " ".join("n" if place == axis else "td"[place > axis] for place in range(values.ndim))
            raise ValueError(
                f"{found}: if axis {axis} is that of the images, set shapes={{{self.name!r}: {declared!r}}}"
            )
        return self._pooled(values.movedim(axes.index("n"), 0), [axis for axis in axes if axis != "n"], mask)

    def _pooled(self, values: Tensor, axes: list[str], mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what :meth:`rows` does of (points, …) values with the given other axes."""
        places = [place for place, axis in enumerate(axes, start=1) if axis in ("t", "h", "w")]
        if self.pooling == "flatten" or not places:
            return values.flatten(start_dim=1), None
        # (points, places, features)
        last = values.movedim(places, tuple(range(1, 1 + len(places))))
        tokens = last.flatten(1, len(places)).flatten(start_dim=2)
        counted = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        if mask is not None and mask.shape == counted.shape:
            counted = mask.to(tokens.device).bool()
        match self.pooling:
            case "first":
                chosen = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
            case "last":
                chosen = (counted * torch.arange(tokens.shape[1], device=tokens.device)).amax(dim=1)
            case "mean":
                weights = counted.to(tokens.dtype)[:, :, None]
                return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1), None
            case _:
                return tokens[counted], counted.sum(dim=1)
        return tokens[torch.arange(len(tokens), device=tokens.device), chosen], None

    def _tensor(self, output: Any) -> Tensor:
        part = output
        if isinstance(output, Tensor) and isinstance(self.element, int | str):
            raise ValueError(f"layer {self.name!r} returns one tensor: outputs={self.element!r} is no part of it")
        if callable(self.element):
            part = self.element(output)
        elif isinstance(self.element, int):
            part = list(output.values())[self.element] if isinstance(output, Mapping) else output[self.element]
        elif isinstance(self.element, str):
            part = output[self.element] if isinstance(output, Mapping) else getattr(output, self.element)
        else:
            part = first_tensor(output)
        if not isinstance(part, Tensor):
            kind = type(output if part is None else part).__name__
            raise ValueError(f"layer {self.name!r} returns {kind}: name a tensor of it, outputs={{{self.name!r}: 0}}")
        if part.layout != torch.strided or part.is_quantized or part.is_complex():
            kind = "complex" if part.is_complex() else "quantised" if part.is_quantized else "sparse"
            raise ValueError(f"layer {self.name!r} is {kind} ({part.dtype}): features must be dense real numbers")
        return part.detach()


def parse_layer(name: str) -> Layer:
    """Return the layer that a name means: a module, ``module#2`` its second call, ``module:input`` what enters it."""
    match = re.fullmatch(r"(?P<module>.*?)(#(?P<call>[1-9]\d*))?(?P<before>:input)?", name)
    assert match is not None
    call = match["call"]
    return Layer(name, match["module"], int(call) if call else None, match["before"] is not None)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network within torch.compile, DataParallel or DistributedDataParallel, which share its parameters.

    Hooks do not see into compiled code, and replicas record their own parts of a batch.
    """
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Return a network's modules of batch normalisation by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output if it is a tensor, else the first tensor of a tuple, list, mapping or ModelOutput."""
    if isinstance(output, Tensor):
        return output
    members = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((member for member in members if isinstance(member, Tensor)), None)


@contextmanager
def measuring_mode(network: nn.Module, batch_norm: str) -> Iterator[None]:
    """Set a network to a measuring mode; restore modes, buffers and random state on exit.

    batch_norm: ``batch`` normalises with the statistics of each batch; all other modules are in evaluation mode.
    """
    modes = {module: module.training for module in network.modules()}
    tracking = {module: module.track_running_stats for module in modes if isinstance(module, _BatchNorm)}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    devices = sorted({tensor.device.index for tensor in network.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for module in modes:
                module.training = False
                if batch_norm == "batch" and isinstance(module, _BatchNorm):
                    module.training = True
                    # Batch statistics alone: updating running ones takes a third of the module's time.
                    module.track_running_stats = False
            yield
    finally:
        for module, training in modes.items():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = tracking[module]
            module.training = training
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                # Buffers registered by the forward pass are new and have no earlier value.
                if name in buffers:
                    buffer.copy_(buffers[name])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch: a DataLoader draws from torch's."""
    states = random.getstate(), np.random.get_state()
    try:
        # Those of GPUs are kept in each pass.
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class Recorder:
    """The outputs of layers in the latest forward pass, by the layers' names."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.values: dict[str, Tensor] = {}
        # Rows per input, where these are several.
        self.repeats: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.points = 0
        self.mask: Tensor | None = None

    def start(self, points: int, mask: Tensor | None = None) -> None:
        """Forget the last pass. points: in the batch of the next one; mask: of its tokens."""
        self.values, self.repeats, self.calls, self.points, self.mask = {}, {}, {}, points, mask

    def recorded(self) -> dict[str, Tensor]:
        """Return the features of the latest pass; raises ValueError for a layer that did not run."""
        for layer in self.layers:
            if layer.name not in self.values:
                runs = self.calls.get(layer.module, 0)
                often = f"runs {runs} times" if runs else "does not run"
                raise ValueError(f"layer {layer.name!r} {often} in a forward pass of the network")
        return {layer.name: self.values[layer.name] for layer in self.layers}

    @contextmanager
    def hooked(self, network: nn.Module) -> Iterator[None]:
        """Record the forward passes of a network while the context is open."""
        named = dict(network.named_modules(remove_duplicate=False))
        by_module: dict[str, list[Layer]] = {}
        for layer in self.layers:
            by_module.setdefault(layer.module, []).append(layer)
        handles = []
        for name, layers in by_module.items():
            handles.append(named[name].register_forward_pre_hook(self._before(layers), with_kwargs=True))
            handles.append(named[name].register_forward_hook(self._after(layers)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, layers: Sequence[Layer]) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            name = layers[0].module
            self.calls[name] = self.calls.get(name, 0) + 1
            self._keep([layer for layer in layers if layer.before], (*args, *kwargs.values()))

        return record

    def _after(self, layers: Sequence[Layer]) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            self._keep([layer for layer in layers if not layer.before], output)

        return record

    def _keep(self, layers: Sequence[Layer], value: Any) -> None:
        for layer in layers:
            call = self.calls[layer.module]
            if layer.call is None and call > 1:
                further = ", ".join(f"{layer.name}#{number}" for number in (1, 2))
                raise ValueError(
                    f"layer {layer.name!r} runs more than once in a forward pass: choose from {further}, …"
                )
            if layer.call in (None, call):
                rows, repeats = layer.rows(value, self.points, self.mask)
                if repeats is not None:
                    self.repeats[layer.name] = repeats
                # A later in-place operation, such as nn.ReLU(inplace=True), would overwrite the output.
                self.values[layer.name] = rows.clone()


def with_options(
    layers: Sequence[Layer],
    outputs: Mapping[str, Element] | Element | None,
    shapes: Mapping[str, str] | str | None,
    pooling: Mapping[str, str] | str,
) -> tuple[Layer, ...]:
    """Return layers with the given elements, shapes and poolings, each for all layers or by name or pattern.

    A layer's own name goes before a pattern, such as ``blocks.*``, and an earlier pattern before a later one. Raises
    ValueError for a name or pattern of none of the layers and for values that mean nothing.
    """
    known = [layer.name for layer in layers]
    for argument, values in (("outputs", outputs), ("shapes", shapes), ("pooling", pooling)):
        for word in values if isinstance(values, Mapping) else ():
            if not any(name == word or fnmatchcase(name, word) for name in known):
                raise ValueError(f"{argument}: no measured layer {word!r}; choose from {', '.join(known)}")
    changed = []
    for layer in layers:
        element, shape = _option(outputs, layer.name), _option(shapes, layer.name)
        pool = _option(pooling, layer.name) or "flatten"
        axes = shape.split() if isinstance(shape, str) else ["n"]
        if axes.count("n") != 1 or set(axes) - set("nthwcd"):
            expected = "axes of n, t, h, w, c, d with n once, such as 'n t d' or 't n d'"
            raise ValueError(f"shapes: {shape!r} for layer {layer.name!r}; use {expected}")
        if pool not in POOLINGS:
            raise ValueError(f"pooling={pool!r}: choose one of {', '.join(POOLINGS)}")
        changed.append(replace(layer, element=element, shape=shape, pooling=pool))
    return tuple(changed)


def _option(values: Any, name: str) -> Any:
    """Return what an option for all layers, or by name or pattern, says about one; None if nothing."""
    if not isinstance(values, Mapping):
        return values
    return values.get(name, next((value for word, value in values.items() if fnmatchcase(name, word)), None))
