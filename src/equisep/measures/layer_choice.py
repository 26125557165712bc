"""Which layers of a network are measured: found by a rule, or by names, patterns or a predicate.

The rule of ``layers="auto"``, on one forward pass:

1. If the network has blocks, these are its layers. A block is a module that runs, is made of others, and whose class
   occurs at least twice: a residual block of a ResNet, an encoder block of a ViT or BERT, an Inception module, a dense
   block. Blocks within blocks do not count, nn.Sequential and lists of modules are looked into, and beside a block
   other modules that are made of several count as blocks too, so that parallel branches are never taken for layers.
2. Else the layers are its modules with weights (linear, convolutional, recurrent, …), each measured after the
   normalisations and activations that follow it and keep its shape. The last one, whose output is the network's or has
   its shape, is the classifier and no layer.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from equisep.measures.recording import INPUT, Layer, first_tensor, measuring_mode, parse_layer

Layers = str | Sequence[str] | Callable[[str, nn.Module], bool]
CONTAINERS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Run:
    """One call of a module in a forward pass.

    shape: of the first tensor of its output, or None. source: number of the first tensor that enters it, or None.
    """

    name: str
    module: nn.Module
    call: int
    shape: tuple[int, ...] | None
    source: int | None = None


def trace(network: nn.Module, forward: Callable[[], Any]) -> tuple[list[Run], tuple[int, ...]]:
    """Return the calls of all modules in the order in which they end, and the shape of the network's output."""
    runs: list[Run] = []
    calls: Counter[str] = Counter()
    # By id, which is used again when its tensor is gone; keeping the tensors would take the memory of all activations.
    entered: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def number(tensor: Tensor) -> int:
        known = entered.get(id(tensor))
        if known is None or known[0]() is not tensor:
            entered[id(tensor)] = known = weakref.ref(tensor), len(runs)
        return known[1]

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] += 1
            tensor, source = first_tensor(output), first_tensor(args)
            shape = None if tensor is None else tuple(tensor.shape)
            runs.append(Run(name, module, calls[name], shape, None if source is None else number(source)))

        return record

    with ExitStack() as stack:
        for name, module in network.named_modules(remove_duplicate=True):
            if name:
                stack.callback(module.register_forward_hook(hook(name)).remove)
        output = first_tensor(forward())
    return runs, () if output is None else tuple(output.shape)


def choose_layers(network: nn.Module, layers: Layers, inputs: Tensor) -> tuple[str, ...]:
    """Return the names of the chosen layers, see :func:`choose`, by a pass of inputs in evaluation mode.

    Modes and random state are restored. Raises ValueError, and what the network raises.
    """
    with measuring_mode(network, "running"):
        runs, output = trace(network, lambda: network(inputs))
    return tuple(layer.name for layer in choose(network, layers, runs, output))


def choose(network: nn.Module, layers: Layers, runs: Sequence[Run], output: tuple[int, ...]) -> tuple[Layer, ...]:
    """Return the chosen layers in the order in which they run.

    layers: ``auto``, the rule above; a name or a pattern such as ``layer*.[01]``; several of them; or a function of
    name and module. A name may end in ``#2``, the second call of a module, or in ``:input``. runs, output: of
    :func:`trace`. Raises ValueError where nothing is found.
    """
    if isinstance(layers, str) and layers == "auto":
        found = list(_blocks(network, runs)) or list(_weighted(runs, output))
        if not found:
            raise ValueError(
                "layers='auto': no blocks, and no modules with weights but the classifier; name the layers"
            )
        return _named(runs, found)
    if callable(layers):
        found = [run for run in runs if layers(run.name, run.module)]
        if not found:
            raise ValueError("layers: the function chooses none of the modules that run in a forward pass")
        return _named(runs, found)
    if not isinstance(layers, str | Iterable):
        raise ValueError(f"layers={layers!r}: use 'auto', names, patterns or a function of name and module")
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ValueError("layers: none are named; use 'auto', names, patterns or a function")
    names = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    chosen: list[Layer] = []
    for word in wanted:
        if not isinstance(word, str):
            raise ValueError(f"layers: {word!r} is no name; use names of modules, patterns, or a function")
        layer = parse_layer(word)
        if word == INPUT:
            raise ValueError(f"layer {INPUT!r}: reserved for the network's input, which is measured anyway")
        if layer.module in names:
            chosen.append(layer)
            continue
        matching = [run for run in runs if fnmatchcase(run.name, word)]
        if not matching:
            listed = ", ".join(names) or "none, it has no submodules"
            raise ValueError(f"layer {word!r}: no such module; choose from {listed}")
        chosen += _named(runs, matching)
    repeated = [layer.name for index, layer in enumerate(chosen) if layer in chosen[:index]]
    if repeated:
        raise ValueError(f"layer {repeated[0]!r}: listed more than once")
    places = {(run.name, run.call): place for place, run in reversed(list(enumerate(runs)))}
    return tuple(sorted(chosen, key=lambda layer: places.get((layer.module, layer.call or 1), len(runs))))


def parallel(layers: Sequence[Layer], runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Yield pairs of chosen layers that take the same tensor, so that neither follows the other.

    Where a layer is the activation after a module, it is what enters that module that counts.
    """
    chosen = {(layer.module, layer.call or 1): layer.name for layer in layers}
    first: dict[int, str] = {}
    source: int | None = None
    for run in runs:
        name = chosen.get((run.name, run.call))
        if _has_weights(run.module) or (name and next(run.module.children(), None) is not None):
            source = run.source
        if name is None or source is None:
            continue
        if source in first:
            yield first[source], name
        else:
            first[source] = name


def _blocks(network: nn.Module, runs: Sequence[Run]) -> Iterator[Run]:
    """Yield the runs of the network's blocks, in order."""
    ran = {run.name for run in runs}
    composite = {
        name: module
        for name, module in network.named_modules()
        if name in ran and _is_composite(module) and next(module.parameters(), None) is not None
    }
    occurrences = Counter(type(module) for module in composite.values())
    names = set(_blocks_within("", network, composite, occurrences))
    yield from (run for run in runs if run.name in names)


def _blocks_within(
    prefix: str, module: nn.Module, composite: dict[str, nn.Module], occurrences: Counter[type[nn.Module]]
) -> Iterator[str]:
    children = [(f"{prefix}.{name}" if prefix else name, child) for name, child in module.named_children()]
    repeated = [name for name, child in children if name in composite and occurrences[type(child)] >= 2]
    looked_into = [name for name, child in children if _holds_blocks(name, child, composite, occurrences)]
    for name, child in children:
        if repeated and name in composite and name not in looked_into:
            yield name
        elif list(child.children()):
            yield from _blocks_within(name, child, composite, occurrences)


def _holds_blocks(
    name: str, module: nn.Module, composite: dict[str, nn.Module], occurrences: Counter[type[nn.Module]]
) -> bool:
    """Whether a module is a mere sequence of others, such as a stage of a ResNet: its members are looked at instead."""
    if type(module) in (nn.Sequential, *CONTAINERS):
        return True
    inner = [type(child) for path, child in module.named_children() if f"{name}.{path}" in composite]
    return isinstance(module, nn.Sequential) and any(occurrences[kind] >= 2 for kind in inner)


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and type(module) not in (nn.Sequential, *CONTAINERS)


def _weighted(runs: Sequence[Run], output: tuple[int, ...]) -> Iterator[Run]:
    """Yield, for each module with weights but the classifier, the last run that belongs to it."""
    leaves = [run for run in runs if next(run.module.children(), None) is None and run.shape is not None]
    groups: list[list[Run]] = []
    for run in leaves:
        if _has_weights(run.module):
            groups.append([run])
        elif isinstance(run.module, _DropoutNd | nn.Identity):
            # Nothing in evaluation mode.
            continue
        elif groups and groups[-1] and run.shape == groups[-1][0].shape:
            groups[-1].append(run)
        elif groups:
            # Pooling or flattening ends what belongs to the module.
            groups.append([])
    kept = [group for group in groups if group]
    if kept and kept[-1][0].shape == output:
        kept.pop()
    yield from (group[-1] for group in kept)


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has weights and is no normalisation."""
    weighted = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    return weighted and "norm" not in type(module).__name__.lower()


def _named(runs: Sequence[Run], chosen: Sequence[Run]) -> tuple[Layer, ...]:
    """Return layers for runs; modules that run several times are named with the number of the call."""
    often = Counter(run.name for run in runs)
    return tuple(
        Layer(f"{run.name}#{run.call}", run.name, run.call) if often[run.name] > 1 else Layer(run.name, run.name)
        for run in chosen
    )
