"""The order of images in a measurement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from equisep import batch_order


@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    batch_size=st.integers(2, 50),
    seed=st.integers(0, 5),
    arrangement=st.randoms(use_true_random=False),
)
def test_every_batch_of_a_stratified_order_has_each_class_in_proportion(
    sizes: list[int], batch_size: int, seed: int, arrangement: object
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.RandomState(seed).shuffle(labels)
    images, batches = len(labels), -(-len(labels) // batch_size)
    if min(sizes) < batches:
        with pytest.raises(ValueError, match=r"class \d+ has \d+ images for \d+ batches; set a larger batch_size"):
            batch_order(torch.from_numpy(labels), "stratified", batch_size=batch_size, seed=seed)
        return
    order = batch_order(torch.from_numpy(labels), "stratified", batch_size=batch_size, seed=seed)
    assert sorted(order.tolist()) == list(range(images))
    left = np.array(sizes)
    for batch in torch.split(order, batch_size):
        counts = np.bincount(labels[batch.numpy()], minlength=len(sizes))
        # Proportional to what is left, up to rounding.
        assert np.abs(counts - left * len(batch) / left.sum()).max() < 1
        left -= counts


def test_balanced_classes_are_equal_in_every_stratified_batch() -> None:
    labels = torch.randperm(1000, generator=torch.Generator().manual_seed(0)) % 10
    for batch in torch.split(batch_order(labels, "stratified"), 100):
        assert torch.bincount(labels[batch]).tolist() == [10] * 10
    # Of 15 images, five classes of three: batches of four and a last one of three.
    few = torch.arange(15) % 5
    assert [
        len(set(few[batch].tolist())) for batch in torch.split(batch_order(few, "stratified", batch_size=6), 6)
    ] == [
        5,
        5,
        3,
    ]


def test_orders_depend_on_their_seed_alone() -> None:
    labels = torch.arange(40) % 4
    assert batch_order(labels, "stored", seed=1).tolist() == list(range(40))
    for order in ("shuffled", "stratified"):
        one, again, other = (batch_order(labels, order, batch_size=8, seed=seed).tolist() for seed in (3, 3, 4))  # type: ignore[arg-type]
        assert one == again != other
    with pytest.raises(ValueError, match="order='sorted': choose one of stored, shuffled, stratified"):
        batch_order(labels, "sorted")  # type: ignore[arg-type]
