"""The fixed sample that is measured during a training, from data in whatever form they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equisep.measures import Batches, random_state_kept

CPU = torch.device("cpu")


def fixed_sample(sample: Any, points: int | None, batch_size: int, label_key: str | None) -> Any:
    """Return a copy of a sample as :func:`equisep.measure` takes it.

    points: how many, in equal steps through a pair of tensors or a mapping of them; of batches as many are taken as it
    needs. Raises ValueError for data without labels, and for inputs and labels of unlike number.
    """
    if isinstance(sample, Mapping):
        named = {str(name): _as_tensor(values, name) for name, values in sample.items()}
        chosen = _spread(named, points)
        parts = {name: torch.split(values, batch_size) for name, values in chosen.items()}
        batches = [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]
        Batches(batches, batch_size, CPU, label_key).labels()
        return batches
    if isinstance(sample, tuple | list) and len(sample) == 2 and all(map(_is_plain, sample)):
        inputs, labels = map(torch.as_tensor, sample)
        return tuple(_spread({"inputs": inputs, "labels": labels}, points).values())
    kept, count = [], 0
    # A loader that shuffles draws from torch's random numbers.
    with random_state_kept():
        for batch in Batches(sample, batch_size, CPU, label_key):
            kept.append(batch.whole)
            count += len(batch)
            if points is not None and count >= points:
                break
    return kept


def two_classes(sample: Any, label_key: str | None) -> Any:
    """Return two points of different classes of a pair of tensors; or batches up to the second class."""
    if isinstance(sample, tuple):
        labels = sample[1]
        others = torch.nonzero(labels != labels[:1]).ravel().tolist() if labels.ndim == 1 else []
        return tuple(part[[0, others[0]]] for part in sample) if others else sample
    for count in range(1, len(sample)):
        labels = torch.cat([batch.labels for batch in Batches(sample[:count], 1, CPU, label_key)])
        if len(torch.unique(labels)) > 1:
            return sample[:count]
    return sample


def _spread(named: Mapping[str, Tensor], points: int | None) -> dict[str, Tensor]:
    """Return rows of tensors in equal steps, so that data in the order of their classes keep all of them."""
    lengths = {name: len(values) for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length:,} {name}" for name, length in lengths.items())
        raise ValueError(f"sample: must have equally many of each, not {listed}")
    for name, values in named.items():
        if values.is_floating_point() and not values.isfinite().all():
            place = int((~values.flatten(1).isfinite()).any(dim=1).nonzero()[0]) if values.ndim > 1 else 0
            raise ValueError(f"sample: {name}: point {place} is not finite")
    count = next(iter(lengths.values()), 0)
    if points is None or points >= count:
        return {name: values.clone() for name, values in named.items()}
    chosen = torch.linspace(0, count - 1, points).round().long()
    return {name: values[chosen] for name, values in named.items()}


def _as_tensor(values: Any, name: object) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"sample: {name} is no tensor or array of numbers ({str(error).splitlines()[0]})") from None
    if tensor.ndim == 0:
        raise ValueError(f"sample: {name} is one number, and must have one value per point")
    return tensor


def _is_plain(part: Any) -> bool:
    """Whether a part of a pair is a tensor, an array or a list of numbers."""
    try:
        return torch.as_tensor(part).ndim > 0
    except (TypeError, ValueError, RuntimeError):
        return False
