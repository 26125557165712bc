"""Separation fuzziness of each layer of any nn.Module on labelled data; the module is left unchanged.

Hooks record all layers in the same forward passes.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.modules.batchnorm import _BatchNorm

from equisep.measures.expected_statistics import class_list_weights, expected_statistics
from equisep.measures.principal_components import PrincipalComponents
from equisep.measures.recording import BATCH_NORMS, INPUT, Recorder, measuring_mode, parse_layer
from equisep.measures.scatter import ClassSums, Weighting
from equisep.measures.separation import (
    Separation,
    as_class_labels,
    as_feature_matrix,
    separations_of,
    separations_of_classes,
)

# Of (n, classes) logits and (n,) labels, the mean over images or, with reduction="sum", the sum.
Loss = Callable[..., Tensor]


def squared_error(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error of logits and one-hot labels, the mean over classes and the mean or sum over images."""
    errors = (logits - one_hot(labels, logits.shape[1]).to(logits.dtype)).square().mean(dim=1)
    return errors.sum() if reduction == "sum" else errors.mean()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}


@dataclass(frozen=True)
class Evaluation:
    """Loss (cross-entropy in nats, or squared error; mean over images) and accuracy (0 … 1) in evaluation mode."""

    loss: float
    accuracy: float


def measure_separation(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    layers: Sequence[str],
    *,
    batch_norm: Literal["batch", "running", "expected"] = "batch",
    batch_size: int = 100,
    weighting: Weighting = "class_size",
    components: int | None = None,
    principal_inputs: Tensor | None = None,
    memory_limit: float = 4.0,
) -> dict[str, Separation]:
    """Return the separation of the input and of each named layer of a network, in this order, by name.

    network: any module that takes a batch of inputs; mode, buffers and random state are restored. inputs: (n, …), used
        in stored order. labels: (n,) integers.
    layers: names of submodules in ``network.named_modules()`` with outputs (b, …), each run once per forward pass.
    batch_norm: ``batch`` normalises with the statistics of each measured batch, as in the released code, ``running``
        with the running statistics, ``expected`` with those that the classes of each batch let expect (see
        :mod:`equisep.measures.expected_statistics`); all other modules (dropout, …) are in evaluation mode.
    batch_size: images per forward pass; 100 in the paper.
    components: number of principal components (of ``principal_inputs``, by default of the inputs) that wider features
        are projected on before D is computed; None for no projection.
    memory_limit: GB; features of all layers up to this size take one pass over the data, larger ones two.
    Raises ValueError for an unknown layer, a layer that runs more than once or not at all, a batch_norm or batch_size
    that the network does not support, and where :func:`equisep.separation_fuzziness` does.
    """
    named = dict(network.named_modules(remove_duplicate=False))
    _validate(named, inputs, layers, batch_norm, batch_size)
    if components is not None and components < 1:
        raise ValueError(f"components={components}: must be at least 1, or None for no projection")
    if components is not None and batch_norm == "expected":
        raise ValueError(f"components={components}: not with batch_norm='expected'; set None")
    classes = as_class_labels(labels, len(inputs))

    def features_of(images: Tensor, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        recorder = Recorder([parse_layer(name) for name in names if name != INPUT])
        with measuring_mode(network, batch_norm), recorder.hooked(network):
            for start in range(0, len(images), batch_size):
                batch = slice(start, min(start + batch_size, len(images)))
                if batch_norm == "expected":
                    # All images of the classes pass through the network; those of the batch are kept.
                    recorder.start(len(inputs))
                    with expected_statistics(network, class_list_weights(classes, batch)):
                        network(inputs)
                    recorded = {name: features[batch] for name, features in recorder.recorded().items()}
                else:
                    recorder.start(batch.stop - start)
                    network(images[batch])
                    recorded = recorder.recorded()
                recorded[INPUT] = images[batch]
                yield {name: as_feature_matrix(recorded[name]) for name in names}

    names = (INPUT, *layers)
    first = next(features_of(inputs[:batch_size], names))
    projections: dict[str, PrincipalComponents] = {}
    if components is not None:
        source = inputs if principal_inputs is None else principal_inputs
        wide = [name for name in names if first[name].shape[1] > components]
        one_pass = sum(first[name][0].nbytes for name in wide) * len(source) <= memory_limit * 1e9
        for group in [wide] if one_pass else [[name] for name in wide]:
            for name, features in _concatenated(features_of(source, group)):
                projections[name] = PrincipalComponents(features, components)

    def projected() -> Iterator[dict[str, Tensor]]:
        for batch in features_of(inputs, names):
            yield batch | {name: projection.project(batch[name]) for name, projection in projections.items()}

    of_image = {name: features[:1] for name, features in first.items()}
    of_image |= {name: projection.project(of_image[name]) for name, projection in projections.items()}
    image_bytes = sum(features.nbytes for features in of_image.values())
    if image_bytes * len(inputs) <= memory_limit * 1e9:
        measured: dict[str, Separation] = {}
        for alike, features in _stacked(projected(), len(inputs)):
            measured |= zip(alike, separations_of_classes(features, classes, weighting), strict=True)
        return {name: measured[name] for name in names}
    sums = {name: ClassSums(classes, weighting) for name in names}
    for batch in projected():
        for name, features in batch.items():
            sums[name].add(features)
    scatters = {name: total.scatter() for name, total in sums.items()}
    for batch in projected():
        for name, features in batch.items():
            scatters[name].add(features)
    return {name: separations_of(scatter)[0] for name, scatter in scatters.items()}


def _concatenated(batches: Iterable[dict[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's name and its features (n, p) of all batches, one layer at a time to save memory."""
    stored = list(batches)
    for name in stored[0]:
        yield name, torch.cat([batch[name] for batch in stored])


def _stacked(batches: Iterator[dict[str, Tensor]], points: int) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the names of layers whose features are alike, and their features (layers, n, p) of all batches."""
    first = next(batches)
    groups: dict[tuple[int, torch.dtype, torch.device], list[str]] = {}
    for name, features in first.items():
        groups.setdefault((features.shape[1], features.dtype, features.device), []).append(name)
    stacks = [
        torch.empty(len(alike), points, width, dtype=dtype, device=device)
        for (width, dtype, device), alike in groups.items()
    ]
    start = 0
    for batch in itertools.chain([first], batches):
        for alike, stack in zip(groups.values(), stacks, strict=True):
            for features, name in zip(stack, alike, strict=True):
                rows, width = len(batch[INPUT]), features.shape[1]
                if batch[name].shape != (rows, width):
                    found = f"{tuple(batch[name].shape)} for {rows} images, not {(rows, width)}"
                    raise ValueError(f"layer {name!r} has features of shape {found}")
                features[start : start + rows] = batch[name]
        start += len(batch[INPUT])
    yield from zip(groups.values(), stacks, strict=True)


def _validate(
    named: dict[str, nn.Module], inputs: Tensor, layers: Sequence[str], batch_norm: str, batch_size: int
) -> None:
    """Raise ValueError for arguments that cannot be measured, before any computation."""
    if not isinstance(inputs, Tensor):
        kind = type(inputs).__name__
        raise ValueError(f"inputs must be a tensor, not {kind}: equisep.measure takes arrays, batches and a DataLoader")
    if batch_norm not in BATCH_NORMS:
        raise ValueError(f"batch_norm={batch_norm!r}: choose one of {', '.join(BATCH_NORMS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    unknown = [name for name in layers if parse_layer(name).module not in named]
    if unknown:
        names = ", ".join(filter(None, named)) or "none, it has no submodules"
        raise ValueError(f"layer {unknown[0]!r}: no such module; choose from {names}")
    if INPUT in layers:
        raise ValueError(f"layer {INPUT!r}: reserved for the network's input; rename the module")
    repeated = [name for index, name in enumerate(layers) if name in layers[:index]]
    if repeated:
        raise ValueError(f"layer {repeated[0]!r}: listed more than once")
    for name, module in named.items():
        if isinstance(module, _BatchNorm) and batch_norm != "batch" and module.running_mean is None:
            raise ValueError(f"batch_norm={batch_norm!r}: module {name!r} has no running statistics; set 'batch'")
        if isinstance(module, nn.BatchNorm1d) and batch_norm == "batch" and len(inputs) % batch_size == 1:
            raise ValueError(f"batch_size={batch_size}: leaves a last batch of one image; set another size")


def evaluate(
    network: nn.Module, inputs: Tensor, labels: Tensor, loss_of: Loss = cross_entropy, batch_size: int = 1000
) -> Evaluation:
    """Return loss and accuracy of a classifier in evaluation mode; the module is left unchanged."""
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    with measuring_mode(network, "running"):
        for batch, targets in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):
            logits = network(batch)
            loss += loss_of(logits.double(), targets, reduction="sum").cpu()
            correct += int((logits.argmax(dim=1) == targets).sum())
    return Evaluation(loss.item() / len(labels), correct / len(labels))
