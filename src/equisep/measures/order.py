"""The order in which images are divided into the batches of a measurement, where that is not the stored one."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Order = Literal["stored", "shuffled", "stratified"]


def batch_order(labels: Tensor, order: Order, *, batch_size: int = 100, seed: int = 0) -> Tensor:
    """Return (n,) int64 indices; consecutive batches of the images in this order are those of a measurement.

    labels: (n,) integers. order: stored (0, 1, …), shuffled (NumPy's permutation of n) or stratified: each batch has a
    proportional number of the images of each class that are left, rounded by largest remainders; their order within
    the class is shuffled. Raises ValueError for an unknown order, and for a stratified one if a class has fewer images
    than there are batches.
    """
    images = len(labels)
    if order == "stored":
        return torch.arange(images)
    generator = np.random.RandomState(seed)
    shuffled = generator.permutation(images)
    if order == "shuffled":
        return torch.from_numpy(shuffled)
    if order != "stratified":
        raise ValueError(f"order={order!r}: choose one of stored, shuffled, stratified")
    classes = labels.cpu().numpy()[shuffled]
    names, left = np.unique(classes, return_counts=True)
    batches = -(-images // batch_size)
    if left.min() < batches:
        rare = f"class {names[left.argmin()]} has {left.min()} images for {batches} batches"
        raise ValueError(f"order='stratified': {rare}; set a larger batch_size")
    by_class = [shuffled[classes == name] for name in names]
    taken = np.zeros(len(names), dtype=np.int64)
    parts = []
    for start in range(0, images, batch_size):
        size = min(batch_size, images - start)
        counts, remainders = np.divmod(left * size, images - start)
        largest = np.argsort(-remainders, kind="stable")[: size - counts.sum()]
        counts[largest] += 1
        parts += [rows[done : done + count] for rows, done, count in zip(by_class, taken, counts, strict=True)]
        taken += counts
        left = left - counts
    return torch.from_numpy(np.concatenate(parts))
