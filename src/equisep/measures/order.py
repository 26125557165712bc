"""The order in which images are divided into the batches of a measurement, where that is not the stored one."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from equisep.measures.separation import as_class_labels

Order = Literal["stored", "shuffled", "stratified"]


def batch_order(labels: Tensor, order: Order, *, batch_size: int = 100, seed: int = 0) -> Tensor:
    """Return (n,) int64 indices; consecutive batches of the images in this order are those of a measurement.

    labels: (n,) integers. order: stored (0, 1, …), shuffled (NumPy's permutation of n) or stratified: each batch has a
    proportional number of the images of each class that are left, rounded by largest remainders; their order within
    the class is shuffled. A short last batch has what is left, which may lack a class. Raises ValueError for an unknown
    order, for labels that are no class labels, and for a stratified order if a class has fewer images than there are
    batches. To measure in an order, pass the images in it, with the same batch size:

        rows = batch_order(labels, "stratified", batch_size=100)
        measure_separation(network, inputs[rows], labels[rows], layers, batch_size=100)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    numbered = as_class_labels(labels, len(labels)).numpy()
    images = len(numbered)
    if order == "stored":
        return torch.arange(images)
    generator = np.random.RandomState(seed)
    shuffled = generator.permutation(images)
    if order == "shuffled":
        return torch.from_numpy(shuffled)
    if order != "stratified":
        raise ValueError(f"order={order!r}: choose one of stored, shuffled, stratified")
    classes = numbered[shuffled]
    names, left = np.unique(classes, return_counts=True)
    batches = -(-images // batch_size)
    if left.min() < batches:
        rare = f"class {np.unique(np.asarray(labels))[left.argmin()]} has {left.min()} images for {batches} batches"
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
