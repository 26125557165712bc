"""What may mislead in a measurement of a network, each with its number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from equisep.measures.memory import Probe
from equisep.measures.network import NetworkPasses
from equisep.measures.recording import batch_norms


def warnings_of(
    passes: NetworkPasses, probe: Probe, rows: Mapping[str, int], batch_norm: str, *, training: bool
) -> Iterator[str]:
    """Yield what may mislead in what was measured, each with its number."""
    classes = len(passes.values)
    if training:
        mode = "evaluation mode" if batch_norm == "running" else "evaluation mode but for batch normalisation"
        yield f"the network was in training mode; it was measured in {mode} and is in training mode again"
    if batch_norm == "batch" and batch_norms(passes.network):
        parts = torch.split(passes.classes, passes.sizes)
        present = [int((torch.bincount(part) > 0).sum()) for part in parts]
        lacking = sum(found < min(classes, len(part)) for found, part in zip(present, parts, strict=True))
        if lacking:
            yield (
                f"{lacking} of {len(parts)} batches lack classes (one has {min(present)} of {classes}): statistics of "
                "batches of unlike classes put a floor under D; shuffle, or measure with batch_norm='running'"
            )
    single = int((torch.bincount(passes.classes) == 1).sum())
    if single:
        yield f"{single} of {classes} classes have one point, which has no scatter within its class"
    if probe.parallel:
        one, other = probe.parallel[0]
        more = f" ({len(probe.parallel)} such pairs)" if len(probe.parallel) > 1 else ""
        yield (
            f"layers {one!r} and {other!r} take the same tensor{more}: they are parallel, and ratios and law are of "
            "successive layers; name the layers"
        )
    wide = [layer.name for layer in probe.layers if probe.widths[layer.name] > rows[layer.name]]
    if wide:
        widest = max(wide, key=lambda name: probe.widths[name] / rows[name])
        noise = (classes - 1) * rows[widest] / probe.widths[widest]
        yield (
            f"{len(wide)} of {len(probe.layers)} layers have more features than points; at layer {widest!r} "
            f"({probe.widths[widest]:,} for {rows[widest]:,}) pure noise would have D of about {noise:.2g}"
        )


def undefined(names: Sequence[str], measured: Mapping[str, Mapping[str, float]], classes: int) -> Iterator[str]:
    """Yield a line about the metrics that were asked for and are defined at no layer."""
    missing = [name for name in names if all(math.isnan(values[name]) for values in measured.values())]
    if missing:
        outputs = f"an output for each of the {classes} classes, with labels 0 … {classes - 1}"
        yield (
            f"{', '.join(missing)}: not defined, for want of {outputs}; nc3 and nc4 also need the last layer to be "
            "what the classifier takes, for example 'fc:input'"
        )
