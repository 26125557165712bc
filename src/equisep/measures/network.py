"""Metrics of every layer of any network on labelled data, in as few forward passes as memory allows.

Without a limit, features of all layers are kept and one pass is enough. Else layers are measured in groups, two passes
over the data each, with memory O(pK) a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from equisep.measures.batches import Batch, Batches, Forward, call
from equisep.measures.layer_choice import Layers, Run, choose, parallel, trace
from equisep.measures.memory import Plan, Probe
from equisep.measures.metrics import LayerPasses
from equisep.measures.principal_components import PASSES, StreamedComponents
from equisep.measures.recording import INPUT, Layer, Recorder, measuring_mode
from equisep.measures.scatter import NotFinite, Weighting
from equisep.measures.spectra import FULL, linear_probe, numerical_rank, rank_me, two_nn

# Of kept features, that are added to their components at once.
ROWS = 4096
# Class means of two passes over equal data differ by less, relative to the spread of the points.
SAME_DATA = 1e-3
# Rows of features, their class numbers, and those that the network predicts.
Rows = tuple[Tensor, Tensor, Tensor | None]


class NetworkPasses:
    """Forward passes of a network over labelled data, with its layers recorded.

    Arguments as of :func:`equisep.measure`. Raises ValueError for what cannot be measured, before the first pass.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Any,
        *,
        batch_size: int,
        batch_norm: str,
        forward: Forward | None,
        label_key: str | None,
    ) -> None:
        tensor = next(network.parameters(), next(network.buffers(), torch.empty(0)))
        self.network, self.batch_norm, self.forward = network, batch_norm, forward
        self.batches = Batches(data, batch_size, tensor.device, label_key)
        labels, self.sizes = self.batches.labels()
        self.values, self.classes = torch.unique(labels, return_inverse=True)
        self.points = len(labels)

    def run(self, batch: Batch) -> Any:
        """Return the network's output for a batch."""
        return call(self.network, batch, self.forward)

    def class_numbers(self, labels: Tensor) -> Tensor:
        """Return class numbers 0 … K−1 of labels; raises ValueError for a label that the data do not have."""
        places = torch.searchsorted(self.values, labels.cpu()).clamp(max=len(self.values) - 1)
        unknown = self.values[places] != labels.cpu()
        if unknown.any():
            raise ValueError(f"label {labels[unknown.to(labels.device)][0].item()} is not among those of the data")
        return places

    def predicted(self, output: Any) -> Tensor | None:
        """Return the class numbers that the network predicts, −1 for a class without data; None without logits."""
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or not self._has_classes(logits.shape[1]):
            return None
        numbers = torch.full((logits.shape[1],), -1)
        numbers[self.values] = torch.arange(len(self.values))
        # Logits that are NaN predict nothing.
        return torch.where(torch.isfinite(logits).all(dim=1).cpu(), numbers[logits.argmax(dim=1).cpu()], -1)

    def _has_classes(self, outputs: int) -> bool:
        """Whether a network of so many outputs can be trained on these labels."""
        return outputs == len(self.values) and int(self.values.min()) >= 0 and int(self.values.max()) < outputs

    def features(
        self, layers: Sequence[Layer], batches: Batches | None = None, tick: Callable[[], Any] = lambda: None
    ) -> Iterator[tuple[dict[str, Rows], int]]:
        """Yield, for each batch, rows, class numbers and predicted class numbers by layer; and the batch's number.

        batches: other data of the same classes. tick: called after each batch.
        """
        recorder = Recorder([layer for layer in layers if layer.name != INPUT])
        inputs = next((layer for layer in layers if layer.name == INPUT), None)
        with measuring_mode(self.network, self.batch_norm), recorder.hooked(self.network):
            for number, batch in enumerate(self.batches if batches is None else batches):
                classes = self.class_numbers(batch.labels)
                recorder.start(len(batch), batch.mask)
                predictions = self.predicted(self.run(batch))
                recorded = recorder.recorded()
                if inputs is not None:
                    values, repeats = inputs.rows(_input(batch), len(batch), batch.mask)
                    recorded = {INPUT: values} | recorded
                    recorder.repeats |= {} if repeats is None else {INPUT: repeats}
                found = {}
                for name, rows in recorded.items():
                    of_rows, of_predictions = classes.to(rows.device), predictions
                    if name in recorder.repeats:
                        often = recorder.repeats[name].to(rows.device)
                        of_rows = of_rows.repeat_interleave(often)
                        if predictions is not None:
                            of_predictions = predictions.to(rows.device).repeat_interleave(often)
                    found[name] = (rows, of_rows, of_predictions)
                yield found, number
                tick()

    def probe(self, layers: Layers, declare: Callable[[Sequence[Layer]], tuple[Layer, ...]]) -> Probe:
        """Return what a pass of the first batch shows. declare: adds elements, shapes and poolings to layers."""
        batch = next(iter(self.batches))
        with measuring_mode(self.network, self.batch_norm):
            runs, output = trace(self.network, lambda: self.run(batch))
            chosen = choose(self.network, layers, runs, output)
            if _input(batch) is not None:
                chosen = (Layer(INPUT, ""), *chosen)
            chosen = declare(chosen)
            linear = [run for run in runs if run.shape == output and isinstance(run.module, nn.Linear)]
            classifier = linear[-1] if linear else None
            self._refuse_ambiguous_axes(chosen, batch, runs)
        extra = [] if classifier is None else [Layer(f"{classifier.name}:input", classifier.name, before=True)]
        shapes = {(run.name, run.call): run.shape for run in runs}
        of_point: dict[str, tuple[int, ...]] = {}
        for layer in chosen:
            shape = None if layer.before or layer.element is not None else shapes.get((layer.module, layer.call or 1))
            shape = tuple(_input(batch).shape) if layer.name == INPUT else shape
            if shape is not None and shape[:1] == (len(batch),) and shape[1:]:
                of_point[layer.name] = shape[1:]
        found, _ = next(self.features((*chosen, *extra)))
        rows = {name: values for name, (values, _, _) in found.items()}
        weights = None
        if classifier is not None and chosen:
            entering, last = rows[extra[0].name], rows[chosen[-1].name]
            weight = next(classifier.module.parameters()).detach()
            if entering.shape == last.shape and torch.equal(entering, last) and self._has_classes(len(weight)):
                weights = weight[self.values.to(weight.device)]
        return Probe(
            chosen,
            {layer.name: of_point.get(layer.name, tuple(rows[layer.name].shape[1:])) for layer in chosen},
            {layer.name: rows[layer.name].shape[1] for layer in chosen},
            {layer.name: rows[layer.name].nbytes // len(batch) for layer in chosen},
            weights,
            tuple(parallel(chosen, runs)),
        )

    def _refuse_ambiguous_axes(self, layers: Sequence[Layer], batch: Batch, traced: Sequence[Run]) -> None:
        """Raise ValueError for a layer whose first axis has the batch's size, as another has, but is not the batch's.

        A pass with one point less shows which of the axes it is.
        """
        points = len(batch)
        runs = {(run.name, run.call): run.shape for run in traced}
        doubtful = [
            (layer, shape)
            for layer in layers
            if layer.name != INPUT and layer.shape is None and not layer.before
            if (shape := runs.get((layer.module, layer.call or 1))) and shape[0] == points and points in shape[1:]
        ]
        if not doubtful or points < 2:
            return
        fewer = Batch(*(_without_last(part, points) for part in (batch.inputs, batch.labels, batch.whole, batch.mask)))
        again = {(run.name, run.call): run.shape for run in trace(self.network, lambda: self.run(fewer))[0]}
        for layer, shape in doubtful:
            other = again.get((layer.module, layer.call or 1)) or shape
            if other[0] == points:
                axis = next((axis for axis, size in enumerate(other) if size == points - 1), None)
                axes = " ".join("n" if place == axis else "td"[place > (axis or 0)] for place in range(len(shape)))
                raise ValueError(
                    f"layer {layer.name!r} has shape {shape} for {points} inputs and {other} for {points - 1}: its "
                    f"first axis is not that of the inputs, set shapes={{{layer.name!r}: {axes!r}}}"
                )


def measure_layers(
    passes: NetworkPasses,
    probe: Probe,
    chosen: Plan,
    metrics: Sequence[str],
    *,
    weighting: Weighting = "class_size",
    components: int | None = None,
    held_out: Batches | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Return the metrics of each layer, its number of rows, and warnings. Arguments as of :func:`equisep.measure`."""
    projected = {
        name: StreamedComponents(components)
        for name, width in probe.widths.items()
        if components is not None and width > components
    }
    measured: dict[str, dict[str, float]] = {}
    rows_of: dict[str, int] = {}
    warnings: list[str] = []
    full = [name for name in metrics if name in FULL]
    for group in chosen.groups:
        states = {
            layer.name: LayerPasses(len(passes.values), weighting, metrics, projected.get(layer.name))
            for layer in group
        }
        features: dict[str, Rows] = {}
        if chosen.kept:
            features = _keep_features(passes, group, states, tick)
        else:
            warnings += _stream_features(passes, group, states, tick)
        beyond: dict[str, list[Rows]] = {name: [] for name in states}
        for found, _ in () if held_out is None else passes.features(group, held_out, tick):
            for name, part in found.items():
                if not torch.isfinite(part[0]).all():
                    raise NotFinite(f"layer {name!r}: features of held-out points are NaN or infinite")
                states[name].add_held_out(*part)
                if "linear_probe" in full:
                    beyond[name].append(part)
        for layer in group:
            name = layer.name
            entered = layer is probe.layers[-1] and name not in projected
            values = states[name].metrics(probe.classifier if entered else None)
            if components is not None:
                one = projected.get(name)
                values |= {"components_share": one.share if one else 1.0, "components_error": one.error if one else 0.0}
            for metric in full:
                others = _joined(beyond[name])[:2] if beyond[name] else None
                values |= _of_all_features(metric, *features[name][:2], others)
            measured[name] = {
                key: value
                for key, value in values.items()
                if key.removesuffix("_held_out") in metrics or key.startswith("components_")
            }
            rows_of[name] = int(states[name].sums.counts.sum())
    return measured, rows_of, warnings


def _keep_features(
    passes: NetworkPasses, group: Sequence[Layer], states: Mapping[str, LayerPasses], tick: Callable[[], Any]
) -> dict[str, Rows]:
    """Take both passes from features that are kept of one pass over the data; return them."""
    parts: dict[str, list[Rows]] = {name: [] for name in states}
    for found, _ in passes.features(group, tick=tick):
        for name, part in found.items():
            parts[name].append(part)
    features = {}
    for layer in group:
        with _naming(layer.name):
            rows, labels, predictions = _joined(parts.pop(layer.name))
            state = states[layer.name]
            if state.components is not None:
                for _ in range(PASSES):
                    for some in torch.split(rows, ROWS):
                        state.components.add(some)
                    _ended(state.components.end_pass, passes, layer)
            state.add_first(rows, labels)
            _ended(state.start_second, passes, layer)
            state.add_second(rows, labels, predictions)
            features[layer.name] = state.projected(rows), labels, predictions
    return features


def _stream_features(
    passes: NetworkPasses, group: Sequence[Layer], states: Mapping[str, LayerPasses], tick: Callable[[], Any]
) -> list[str]:
    """Take two passes over the data, more for components; return a warning if the data differ from pass to pass."""
    wide = [(layer, chosen) for layer in group if (chosen := states[layer.name].components) is not None]
    for _ in range(PASSES if wide else 0):
        for found, _ in passes.features([layer for layer, _ in wide], tick=tick):
            for layer, components in wide:
                components.add(found[layer.name][0])
        for layer, components in wide:
            _ended(components.end_pass, passes, layer)
    for found, _ in passes.features(group, tick=tick):
        for name, (rows, labels, _) in found.items():
            with _naming(name):
                states[name].add_first(rows, labels)
    for layer in group:
        _ended(states[layer.name].start_second, passes, layer)
    for found, _ in passes.features(group, tick=tick):
        for name, part in found.items():
            with _naming(name):
                states[name].add_second(*part)
    changes = {name: state.changed_between_passes() for name, state in states.items()}
    worst = max(changes, key=lambda name: changes[name])
    if changes[worst] <= SAME_DATA:
        return []
    differ = f"the data differ from pass to pass (class means of layer {worst!r} by {changes[worst]:.2g} of the spread)"
    return [f"{differ}: inputs that are augmented at random give no D"]


def _of_all_features(
    metric: str, features: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor] | None
) -> dict[str, float]:
    if metric == "linear_probe":
        accuracy, beyond = linear_probe(features, labels, held_out)
        return {metric: accuracy} | ({} if math.isnan(beyond) else {"linear_probe_held_out": beyond})
    return {metric: {"rank_me": rank_me, "numerical_rank": numerical_rank, "two_nn": two_nn}[metric](features)}


def _ended(end: Callable[[], None], passes: NetworkPasses, layer: Layer) -> None:
    """End a pass of a layer; raises NotFinite with the first batch that is not finite."""
    try:
        end()
    except NotFinite:
        for found, number in passes.features([layer]):
            bad = ~torch.isfinite(found[layer.name][0]).all(dim=1)
            if bad.any():
                where = f"layer {layer.name!r}, batch {number} (from 0): {int(bad.sum())} of {len(bad)} rows"
                raise NotFinite(f"{where} are NaN or infinite: the network diverged or the data are bad") from None
        raise NotFinite(f"layer {layer.name!r}: sums of its features overflow") from None


def _joined(parts: Sequence[Rows]) -> Rows:
    widths = {part[0].shape[1] for part in parts}
    if len(widths) > 1:
        first, other = list(dict.fromkeys(part[0].shape[1] for part in parts))[:2]
        raise ValueError(f"rows of {other} features after rows of {first}")
    predictions = [part[2] for part in parts if part[2] is not None]
    rows, labels = (torch.cat([part[place] for part in parts]) for place in (0, 1))  # type: ignore[misc]
    return rows, labels, torch.cat(predictions) if len(predictions) == len(parts) else None


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the layer in what is raised about its features."""
    try:
        yield
    except NotFinite:
        raise
    except ValueError as error:
        message = str(error)
        raise ValueError(message if repr(name) in message else f"layer {name!r}: {message}") from None


def _input(batch: Batch) -> Any:
    """Return the first tensor of numbers that the network is given, if those are no ids of tokens; else None."""
    values = batch.inputs
    members = (
        values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else [values]
    )
    for value in members:
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == len(batch):
            return value if value.is_floating_point() or value.ndim > 2 else None
    return None


def _without_last(value: Any, points: int) -> Any:
    """Return a batch without its last point."""
    if isinstance(value, Tensor):
        return value[:-1] if value.ndim and len(value) == points else value
    if isinstance(value, Mapping):
        return {name: _without_last(part, points) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_without_last(part, points) for part in value)
    return value
