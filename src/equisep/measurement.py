"""Measure any network: D of every layer and other metrics, the law through D, a table and a picture, in one call."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from equisep.measures import (
    FULL,
    STREAMED,
    Batches,
    Element,
    Forward,
    Law,
    Layers,
    NetworkPasses,
    Weighting,
    batch_norms,
    fit_law,
    free_memory,
    measure_layers,
    plan,
    random_state_kept,
    undefined,
    unwrapped,
    warnings_of,
    with_options,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METRICS = (*STREAMED, *FULL)
VERSION = 1
# Share of the free memory that is used where no limit is set.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class LayerMetrics:
    """A measured layer.

    shape: of a point's values. features: p, after pooling. points: rows, n. metrics: by name, NaN where not defined;
    see :func:`equisep.measure`.
    """

    name: str
    shape: tuple[int, ...]
    features: int
    points: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class NetworkMeasurement:
    """The metrics of a network's layers, the input first where it is a layer.

    settings: how they were measured. warnings: what may mislead, with its number. classes: K.
    """

    layers: tuple[LayerMetrics, ...]
    classes: int
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def fuzziness(self) -> tuple[float, ...]:
        """D of each layer; raises ValueError where it is not among the metrics."""
        if "fuzziness" not in self.layers[0].metrics:
            raise ValueError("D was not measured: name fuzziness among the metrics")
        return tuple(layer.metrics["fuzziness"] for layer in self.layers)

    @property
    def convention(self) -> str:
        """How batch normalisation was measured, in words."""
        if self.settings["batch_norm"] == "running":
            return "evaluation mode"
        return f"statistics of batches of {self.settings['batch_size']}"

    @property
    def law(self) -> Law:
        """The law through the layers; raises ValueError for fewer than two or a D without logarithm."""
        return fit_law(self.fuzziness)

    def effective_depth(self, tolerance: float = 0.01) -> int | None:
        """Return the first layer, 0 the first one measured, from which the mismatch stays at most ``tolerance``.

        The mismatch is that of held-out points where there are any: the share of points whose predicted class has not
        the nearest class mean. None if it is larger at the last layer. (Galanti, Galanti & Ben-Shaul, arXiv:2202.09028;
        the tolerance is ours.) Raises ValueError where it was not measured.
        """
        names = ("ncm_mismatch_held_out", "ncm_mismatch")
        name = next((name for name in names if not math.isnan(self.layers[-1].metrics.get(name, math.nan))), None)
        if name is None:
            raise ValueError("effective depth needs ncm_mismatch, and a network with an output per class")
        depth = None
        for place in reversed(range(len(self.layers))):
            if not self.layers[place].metrics[name] <= tolerance:
                break
            depth = place
        return depth

    def to_frame(self) -> pd.DataFrame:
        """Return a row per layer: layer, shape, features, points and each metric."""
        import pandas as pd

        return pd.DataFrame(
            {"layer": layer.name, "shape": _by(layer.shape), "features": layer.features, "points": layer.points}
            | dict(layer.metrics)
            for layer in self.layers
        )

    def plot(self) -> Figure:
        """Return a figure of log D against layer with the law and its residuals."""
        from equisep.plots import layer_plot

        return layer_plot(self.fuzziness, f"{self.settings['network']}, {self.convention}")

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, to be read by :meth:`load`."""
        # JSON has neither NaN nor infinity.
        layers = [
            asdict(layer) | {"metrics": {name: _as_plain(value) for name, value in layer.metrics.items()}}
            for layer in self.layers
        ]
        stored = {"version": VERSION} | asdict(self) | {"layers": layers}
        Path(path).write_text(json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NetworkMeasurement:
        """Read what :meth:`save` wrote; raises ValueError for another file."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if stored["version"] != VERSION:
                raise ValueError(f"version {stored['version']}, not {VERSION}")
            layers = tuple(
                LayerMetrics(
                    layer["name"],
                    tuple(layer["shape"]),
                    layer["features"],
                    layer["points"],
                    {name: math.nan if value is None else float(value) for name, value in layer["metrics"].items()},
                )
                for layer in stored["layers"]
            )
            return cls(layers, stored["classes"], stored["settings"], tuple(stored["warnings"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no saved measurement ({error})") from None

    def __str__(self) -> str:
        shown = [name for name in self.layers[0].metrics if any(_finite(layer, name) for layer in self.layers)]
        ratios = [math.nan, *(self.law.layer_ratios if self._has_law else [math.nan] * (len(self.layers) - 1))]
        rows = [["", "layer", "values", *("D" if name == "fuzziness" else name for name in shown)]]
        for number, layer in enumerate(self.layers):
            rows.append([str(number), layer.name, _by(layer.shape), *(_number(layer.metrics[name]) for name in shown)])
        if "fuzziness" in shown:
            place = 4 + shown.index("fuzziness")
            for row, ratio in zip(rows, ["ratio", *map(_number, ratios)], strict=True):
                row.insert(place, ratio)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place in (1, 2) else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        if self._has_law:
            law = self.law
            fit = f"r = {law.pearson_r:.4f}, ρ = {law.decay_ratio:.4f}, half-life {law.half_life:.2f} layers"
            curved = "" if math.isnan(law.curvature) else f", curvature {law.relative_curvature:.3f}"
            if len(self.layers) == 2:
                fit += " (a line through two layers is exact, r is always ±1)"
            lines += ["", f"law: {fit}; residual {law.relative_residual:.3f}{curved} (of the fall of log D)"]
        elif "fuzziness" in shown:
            lines += ["", "no law: it needs D of two layers, positive and finite"]
        points = f"{self.layers[0].points:,} points, {self.classes} classes"
        lines += [f"{self.settings['network']}, {points}, {self.convention}"]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(line.rstrip() for line in lines)

    @property
    def _has_law(self) -> bool:
        values = [layer.metrics.get("fuzziness", math.nan) for layer in self.layers]
        return len(values) > 1 and all(math.isfinite(value) and value > 0 for value in values)


def measure(
    model: nn.Module,
    data: Any,
    layers: Layers = "auto",
    metrics: str | Sequence[str] = STREAMED,
    *,
    held_out: Any = None,
    forward: Forward | None = None,
    label_key: str | None = None,
    outputs: Mapping[str, Element] | Element | None = None,
    shapes: Mapping[str, str] | str | None = None,
    pooling: Mapping[str, str] | str = "flatten",
    batch_norm: Literal["running", "batch"] = "running",
    batch_size: int = 100,
    weighting: Weighting = "class_size",
    components: int | None = None,
    memory_limit: float | None = None,
    progress: bool | None = None,
) -> NetworkMeasurement:
    """Measure the layers of any network on labelled data; the network is left as it was, also after an error.

    model: any module. Of a compiled or replicated one the network within is measured. Batches are moved to its device.
    data: (inputs, labels) tensors or arrays, a DataLoader, or any iterable of batches that can be repeated. A batch is
        (inputs, labels) or a mapping with labels under ``label_key`` (by default labels, label, targets, target or y);
        other keys are the network's arguments. Labels are integers, one per input.
    layers: ``auto`` finds blocks, or modules with weights (:mod:`equisep.measures.layer_choice`); or a name, a pattern,
        several of them, or a function of name and module. ``block#2`` is the second call of a module, ``fc:input`` what
        enters it. The input is layer 0 unless it consists of token ids.
    metrics: names of STREAMED, the default, explained at :meth:`equisep.measures.metrics.LayerPasses.metrics`: D
        (fuzziness), rank, nc1 to nc4, cdnv, compression, discrimination, trace_ratio, ncm_accuracy, ncm_mismatch. Or of
        FULL, which need all features of a layer in memory: rank_me, numerical_rank, linear_probe, two_nn
        (:mod:`equisep.measures.spectra`).
    held_out: data for the accuracies of class means and probe on other points.
    forward: called as forward(model, batch) instead of the model, with the whole batch.
    outputs: which part of a tuple or ModelOutput a layer is, by index, name or function; by default the first tensor.
    shapes: axes of a layer's values where they are not n d, n t d or n c h w: ``t n d``, ``n h w c``.
    pooling: of tokens or places: flatten, mean, first, last or each (a point of its own). ``attention_mask`` in a batch
        leaves tokens out of mean, last and each. These three take one value for all layers or a mapping by name or
        pattern.
    batch_norm: running statistics, or those of each batch as in the paper.
    batch_size: of tensors; data in batches keep theirs.
    weighting: of the classes in D, as in :func:`equisep.separation_fuzziness`.
    components: principal components on which wider features are projected first, streamed
        (:class:`equisep.measures.principal_components.StreamedComponents`), with two more columns: the share of the
        variance that they capture, and their error.
    memory_limit: GB for features and class means; by default half of the free memory of the device. Within it, all is
        done in one pass over the data, else in two for each group of layers.
    progress: whether a bar is shown; by default in a terminal.

    Raises ValueError for what cannot be measured, before the first pass where that can be known.
    """
    network = unwrapped(model)
    names = [metrics] if isinstance(metrics, str) else list(metrics or ())
    _refuse(network, names, batch_norm, batch_size, components, memory_limit)
    training = network.training
    with random_state_kept():
        passes = NetworkPasses(
            network, data, batch_size=batch_size, batch_norm=batch_norm, forward=forward, label_key=label_key
        )
        if batch_norm == "batch" and 1 in passes.sizes and batch_norms(network):
            single = passes.sizes.index(1)
            raise ValueError(f"batch {single} has one input, which has no statistics: set another batch_size")
        others = None if held_out is None else Batches(held_out, batch_size, passes.batches.device, label_key)
        if others is not None:
            passes.class_numbers(others.labels(least_classes=1)[0])
        probe = passes.probe(layers, lambda chosen: with_options(chosen, outputs, shapes, pooling))
        limit = MEMORY_SHARE * free_memory(passes.batches.device) if memory_limit is None else memory_limit
        full = any(name in FULL for name in names)
        chosen = plan(probe, passes.points, len(passes.values), limit, keep=full, components=components)
        batches = len(passes.sizes) * chosen.passes
        size = f"{len(probe.layers)} layers, {passes.points:,} inputs"
        work = f"{size}, {chosen.passes} × through the data, {chosen.gigabytes:.2g} GB"
        with progress_bar(work, batches, progress) as tick:
            measured, rows, found = measure_layers(
                passes, probe, chosen, names, weighting=weighting, components=components, held_out=others, tick=tick
            )
    return NetworkMeasurement(
        tuple(
            LayerMetrics(
                layer.name, probe.shapes[layer.name], probe.widths[layer.name], rows[layer.name], measured[layer.name]
            )
            for layer in probe.layers
        ),
        len(passes.values),
        {
            "network": type(network).__name__,
            "batch_norm": batch_norm,
            "batch_size": passes.sizes[0],
            "weighting": weighting,
            "pooling": dict(pooling) if isinstance(pooling, Mapping) else pooling,
            "components": components,
            "passes": chosen.passes,
        },
        (
            *warnings_of(passes, probe, rows, batch_norm, training=training),
            *undefined([] if metrics is STREAMED else names, measured, len(passes.values)),
            *found,
        ),
    )


def _refuse(
    network: Any,
    metrics: Sequence[str],
    batch_norm: str,
    batch_size: object,
    components: object,
    memory_limit: float | None,
) -> None:
    if not isinstance(network, nn.Module):
        raise ValueError(f"model: {type(network).__name__} is no torch module")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"metrics: {unknown[0] if unknown else 'none'!r}; choose from {', '.join(METRICS)}")
    if batch_norm not in ("running", "batch"):
        raise ValueError(f"batch_norm={batch_norm!r}: choose running (evaluation mode) or batch")
    for name, number in (("batch_size", batch_size), ("components", components)):
        if (number is not None or name == "batch_size") and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{name}={number!r}: must be an integer, at least 1")
    if memory_limit is not None and not memory_limit > 0:
        raise ValueError(f"memory_limit={memory_limit}: GB, must be positive")
    for name, module in batch_norms(network).items():
        if batch_norm == "running" and module.running_mean is None:
            raise ValueError(f"module {name!r} has no running statistics; set batch_norm='batch'")


@contextmanager
def progress_bar(work: str, batches: int, progress: bool | None) -> Iterator[Callable[[], Any]]:
    """Show how many batches have passed, on standard error. progress: None shows it in a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(work, total=batches)
        yield lambda: bar.advance(task)


def _as_plain(value: float) -> float | str | None:
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _finite(layer: LayerMetrics, name: str) -> bool:
    return math.isfinite(layer.metrics.get(name, math.nan))


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"
