"""The data order, learning rates and trained layers of the schedule."""

from __future__ import annotations

import numpy as np
import pytest

from equisep.config import Training, compose_config
from equisep.training.schedule import DataOrder, learning_rate_factor, trained_layers


def test_the_data_order_is_the_shuffle_of_numpy() -> None:
    np.random.seed(666)
    order = DataOrder(1000, 666)
    for _ in range(3):
        expected = np.arange(1000, dtype=np.int32)
        np.random.shuffle(expected)
        assert order.next_epoch().tolist() == expected.tolist()


def test_the_learning_rate_decays_at_the_milestones() -> None:
    training = Training(epochs=600, batch_size=128, milestones=[200, 400], decay=0.1, snapshots=[])
    factors = [learning_rate_factor(training, epoch) for epoch in (0, 199, 200, 399, 400, 599)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_frozen_schedule_is_that_of_the_released_code() -> None:
    training = compose_config(["training=frozen", "architecture.depth=20"]).training
    assert training.epochs == 1500
    layers = [trained_layers(training, epoch) for epoch in (0, 899, 900, 1499)]
    assert layers == [range(1, 11), range(1, 11), range(11, 21), range(11, 21)]
    factors = [learning_rate_factor(training, epoch) for epoch in (0, 899, 900, 1099, 1100, 1299, 1300)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01])
    assert trained_layers(compose_config([]).training, 0) is None
