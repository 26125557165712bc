"""How the layers of a network are measured within a limit of memory: together or in groups, in one pass or two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from equisep.measures.principal_components import OVERSAMPLING, PASSES
from equisep.measures.recording import Layer
from equisep.process import free_bytes

# Arrays of the size of the class means, K·p values in float64, that are in memory at once while a layer is measured.
STATE_ARRAYS = 8


@dataclass(frozen=True)
class Probe:
    """What a forward pass of the first batch shows.

    shapes: of a point's values, by layer. widths: features p. bytes: per point. classifier: (K, p) weights that the
    last layer's features enter, or None. parallel: pairs of layers that take the same tensor.
    """

    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]
    bytes: Mapping[str, int]
    classifier: Tensor | None
    parallel: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What will be computed. groups: of layers that are measured together; kept: whether their features are kept, so
    that one pass is enough; gigabytes: the most memory that a group takes, beside the network; passes: over all data.
    """

    groups: tuple[tuple[Layer, ...], ...]
    kept: bool
    gigabytes: float
    passes: int


def plan(probe: Probe, points: int, classes: int, limit: float, *, keep: bool, components: int | None = None) -> Plan:
    """Return how the layers are measured within a limit of memory, GB.

    keep: whether features must be kept. components: on which wider ones are projected, or None. Raises ValueError for a
    layer that alone needs more.
    """
    names = [layer.name for layer in probe.layers]
    state = {name: STATE_ARRAYS * 8 * classes * probe.widths[name] / 1e9 for name in names}
    wide = [name for name in names if components is not None and probe.widths[name] > components]
    for name in wide:
        # Basis, product, their decompositions.
        state[name] = 4 * 8 * ((components or 0) + OVERSAMPLING) * probe.widths[name] / 1e9
    kept = {name: probe.bytes[name] * points / 1e9 for name in names}
    # The decomposition of kept features takes copies of one layer in float64.
    whole = sum(kept.values()) + max(state.values(), default=0) + (2 * max(kept.values(), default=0) if keep else 0)
    if whole <= limit:
        return Plan((probe.layers,), True, whole, 1)
    sizes = {name: 3 * kept[name] + state[name] for name in names} if keep else state
    groups: list[list[Layer]] = [[]]
    for layer in probe.layers:
        size = sizes[layer.name]
        if size > limit:
            needs = f"layer {layer.name!r} needs {size:.2g} GB for {probe.widths[layer.name]:,} features"
            raise ValueError(f"{needs} and {classes:,} classes, memory_limit is {limit:.2g} GB: set a higher one")
        if groups[-1] and sum(sizes[member.name] for member in groups[-1]) + size > limit:
            groups.append([])
        groups[-1].append(layer)
    largest = max(sum(sizes[layer.name] for layer in group) for group in groups)
    projecting = 0 if keep else PASSES * sum(any(layer.name in wide for layer in group) for group in groups)
    return Plan(tuple(map(tuple, groups)), keep, largest, (1 if keep else 2) * len(groups) + projecting)


def free_memory(device: torch.device) -> float:
    """Return the free memory of a device in GB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    return free_bytes() / 1e9
