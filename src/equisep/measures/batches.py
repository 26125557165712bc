"""Labelled data in batches, in whatever form they come: tensors, a DataLoader, any iterable that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equisep.measures.separation import as_class_labels

# Keys of labels and of the tokens that count, in batches that are mappings.
LABEL_KEYS = ("labels", "label", "targets", "target", "y")
MASK_KEY = "attention_mask"
Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Batch:
    """A batch on the network's device.

    inputs: what the network is called with: a value, a tuple of positional arguments or a mapping of keyword arguments.
    labels: (points,). whole: the batch as the data gave it. mask: (points, tokens), 1 at tokens that count, or None.
    """

    inputs: Any
    labels: Tensor
    whole: Any
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)


class Batches:
    """Batches of labelled data that can be gone through as often as wanted.

    data: (inputs, labels) tensors or arrays, which are cut into batches; or an iterable of batches that can be
    repeated, such as a DataLoader or a list. A batch is (inputs, labels), (inputs, more inputs, …, labels), or a
    mapping with a key for the labels. label_key: that key; None for one of LABEL_KEYS. device: where batches are moved.
    Raises ValueError for data of another kind.
    """

    def __init__(self, data: Any, batch_size: int, device: torch.device, label_key: str | None = None) -> None:
        self.device, self.label_key = device, label_key
        self.source: Iterable[Any]
        if isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]) and not _is_batch(data[1]):
            inputs, labels = torch.as_tensor(data[0]), _as_integers(data[1])
            if inputs.ndim < 1 or labels.shape != inputs.shape[:1]:
                shapes = f"{tuple(labels.shape)} for inputs of shape {tuple(inputs.shape)}"
                raise ValueError(f"labels must have shape (n,), one per input, not {shapes}")
            self.source = _Cut(inputs, labels, batch_size)
        elif isinstance(data, Tensor | np.ndarray | str | bytes | Mapping):
            raise ValueError(f"data: {type(data).__name__}; give (inputs, labels), a DataLoader or a list of batches")
        elif iter_of(data) is data:
            kind = type(data).__name__
            raise ValueError(
                f"data: a {kind} can be gone through only once; give a list of its batches or a DataLoader"
            )
        else:
            self.source = data

    def __iter__(self) -> Iterator[Batch]:
        for number, whole in enumerate(self.source):
            batch = self._read(_moved(whole, self.device), number)
            if len(batch):
                yield batch

    def labels(self, least_classes: int = 2) -> tuple[Tensor, list[int]]:
        """Return the labels of all points, (n,) on the CPU, and the sizes of the batches; no network runs.

        Raises ValueError for labels that are no class labels and for fewer classes.
        """
        parts = []
        for number, whole in enumerate(self.source):
            labels = self._read(whole, number).labels.cpu()
            parts += [labels] if len(labels) else []
        if not parts:
            raise ValueError("data: no batches")
        joined = torch.cat(parts)
        if least_classes > 1:
            as_class_labels(joined, len(joined))
        return joined, [len(part) for part in parts]

    def _read(self, whole: Any, number: int) -> Batch:
        if isinstance(whole, Mapping):
            key = self.label_key or next((key for key in LABEL_KEYS if key in whole), None)
            if key is None or key not in whole:
                found = f"no labels under {key or ' or '.join(LABEL_KEYS)}, only {', '.join(map(str, whole))}"
                raise ValueError(f"batch {number} has {found}: set label_key")
            inputs: Any = {name: value for name, value in whole.items() if name != key}
            mask = inputs.get(MASK_KEY)
            return Batch(inputs, _as_labels(whole[key], number), whole, mask if isinstance(mask, Tensor) else None)
        if isinstance(whole, Sequence) and not isinstance(whole, str) and len(whole) >= 2:
            inputs = whole[0] if len(whole) == 2 else tuple(whole[:-1])
            return Batch(inputs, _as_labels(whole[-1], number), whole, None)
        raise ValueError(f"batch {number} is a {type(whole).__name__}: batches are (inputs, labels) or mappings")


class _Cut:
    """Inputs and labels in batches of equal size, but for the last."""

    def __init__(self, inputs: Tensor, labels: Tensor, size: int) -> None:
        if size < 1:
            raise ValueError(f"batch_size={size}: must be at least 1")
        self.inputs, self.labels, self.size = inputs, labels, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.split(self.inputs, self.size), torch.split(self.labels, self.size), strict=True)


def call(network: nn.Module, batch: Batch, forward: Forward | None) -> Any:
    """Return the output of a network for a copy of a batch, which it may work on in place.

    forward: of network and whole batch; None: the inputs are given.
    """
    if forward is not None:
        return forward(network, _copied(batch.whole))
    inputs = _copied(batch.inputs)
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple | list) else network(inputs)


def _copied(value: Any) -> Any:
    return _mapped(value, lambda tensor: tensor.clone())


def iter_of(data: Any) -> Iterator[Any]:
    """Return iter(data); raises ValueError for data that have none."""
    try:
        return iter(data)
    except TypeError:
        raise ValueError(
            f"data: {type(data).__name__} cannot be gone through; give (inputs, labels) or a DataLoader"
        ) from None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _as_labels(values: Any, number: int) -> Tensor:
    labels = _as_integers(values)
    if labels.ndim != 1:
        shape = f"labels of batch {number} have shape {tuple(labels.shape)}, not (points,)"
        raise ValueError(shape if labels.ndim else f"{shape}: give a data set in a DataLoader")
    return labels


def _as_integers(values: Any) -> Tensor:
    """Return labels as int64; raises ValueError for labels that are no integers."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "iubf":
            raise ValueError(f"labels must be integers, not {array.dtype}: number the classes")
        values = torch.from_numpy(np.ascontiguousarray(array))
    if values.is_floating_point() or values.is_complex():
        raise ValueError(f"labels must be integers, not {values.dtype}: convert them with .long()")
    integers: Tensor = values.long()
    return integers


def _is_batch(value: Any) -> bool:
    """Whether the second of two values is a batch, and no labels."""
    return isinstance(value, tuple | list) and any(isinstance(part, Tensor | np.ndarray) for part in value)


def _moved(value: Any, device: torch.device) -> Any:
    return _mapped(value, lambda tensor: tensor.to(device, non_blocking=True))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with its tensors and arrays changed; containers keep their kind where it is a plain one."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iubf":
        return change(torch.as_tensor(value))
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, change) for part in value)
    return value
