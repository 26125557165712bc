"""The order in which layers take up their share of the fall of log D."""

import math

import numpy as np
import pytest

from equisep.analysis.figures.emergence import half_share_epochs, shown_epochs


def test_the_epoch_of_half_a_share_is_interpolated_between_snapshots() -> None:
    epochs = [0, 10, 30, 100]
    # −log ρ of three layers: from 0 to 2 by epoch 10, from 0 to 2 between 30 and 100, and one that rises.
    shares = np.array([[0.0, 0.0, 1.0], [2.0, 0.0, 0.5], [2.0, 0.0, 0.0], [2.0, 2.0, -1.0]])
    curves = -np.concatenate([np.zeros((4, 1)), shares.cumsum(axis=1)], axis=1)
    reached = half_share_epochs(curves, epochs)
    assert reached[:2] == pytest.approx([5, 65])
    assert math.isnan(reached[2])
    # A layer that has its share from the start has it at the first epoch.
    assert half_share_epochs(np.array([[0.0, -1.0], [0.0, -1.2]]), [0, 600]) == pytest.approx([0])


def test_the_first_the_middle_and_the_last_snapshot_are_drawn() -> None:
    assert shown_epochs([0, 10, 50, 200, 600]) == [0, 50, 600]
    assert shown_epochs([0, 2]) == [0, 2]
