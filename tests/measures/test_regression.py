"""Least squares in one pass equals least squares on all rows, also without full rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from equisep.measures import StreamedRegression


def in_parts(features: torch.Tensor, targets: torch.Tensor, size: int) -> StreamedRegression:
    regression = StreamedRegression(features.shape[1], targets.shape[1])
    for rows, values in zip(torch.split(features, size), torch.split(targets, size), strict=True):
        regression.add(rows, values)
    return regression


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(12, 120), size=st.integers(1, 60), rank=st.integers(1, 6))
def test_it_equals_numpys_least_squares(seed: int, rows: int, size: int, rank: int) -> None:
    """features: six of any rank, on a scale of a thousand around a mean of a thousand."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, 6, generator=generator, dtype=torch.float64)
    features = 1e3 + 1e3 * torch.randn(rows, rank, generator=generator, dtype=torch.float64) @ basis
    targets = torch.randint(0, 50_000, (rows, 3), generator=generator).double() + features[:, :1]
    regression = in_parts(features, targets, size)
    columns = np.column_stack([np.ones(rows), features.numpy()])
    fitted = columns @ np.linalg.lstsq(columns, targets.numpy(), rcond=1e-12)[0]
    share = ((targets.numpy() - fitted) ** 2).sum(0) / (targets.numpy().var(axis=0) * rows)
    assert regression.unexplained().tolist() == pytest.approx(share, rel=1e-8)
    assert (columns @ regression.coefficients().numpy()).ravel() == pytest.approx(fitted.ravel(), rel=1e-7)
    assert regression.rows == rows


def test_exact_targets_leave_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 4, generator=generator)
    weights = torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    regression = in_parts(features, features.double() @ weights.double() + 7, 30)
    assert regression.coefficients().flatten().tolist() == pytest.approx([7, 1, -2, 0.5, 3])
    assert regression.unexplained()[0] < 1e-25
