"""Least squares with an intercept, of several targets on the same features, in one pass over the rows.

The rows are reduced to the triangular factor of (1, features, targets): no normal equations, so that the condition
number is not squared, and memory O(p²).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Singular values below this share of the largest are none; of float64.
RANK_TOLERANCE = 1e-12


class StreamedRegression:
    """Least squares of targets on features, to which rows are added.

    features: p. targets: q. rows: added so far.
    """

    def __init__(self, features: int, targets: int) -> None:
        self.features, self.targets, self.rows = features, targets, 0
        self._factor: Tensor | None = None
        self._waiting: list[Tensor] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows. features: (n, p) of any float dtype and device; targets: (n, q). Computed in float64."""
        # Not every device has float64; those with CUDA do.
        device = features.device if features.is_cuda else torch.device("cpu")
        rows = features.detach().to(device, torch.float64)
        values = targets.to(device, torch.float64)
        self._waiting.append(torch.cat([torch.ones(len(rows), 1, dtype=rows.dtype, device=device), rows, values], 1))
        self.rows += len(rows)
        # A factorisation costs as much for few rows as for as many as it has columns.
        if sum(map(len, self._waiting)) >= 4 * self._waiting[0].shape[1]:
            self._reduce()

    def coefficients(self) -> Tensor:
        """Return the (p + 1, q) coefficients of least norm, the intercept first."""
        return self._solve()[0]

    def unexplained(self) -> Tensor:
        """Return the (q,) shares of the targets' variance that the features leave, 1 − R²."""
        return self._solve()[1]

    def _solve(self) -> tuple[Tensor, Tensor]:
        """Return coefficients and unexplained shares."""
        self._reduce()
        assert self._factor is not None
        factor, columns = self._factor.cpu(), self.features + 1
        left, right, below = factor[:columns, :columns], factor[:columns, columns:], factor[columns:, columns:]
        solution = torch.linalg.lstsq(left, right, rcond=RANK_TOLERANCE, driver="gelsd").solution
        error = (right - left @ solution).square().sum(0) + below.square().sum(0)
        # The first row of the factor is the mean.
        total = right[1:].square().sum(0) + below.square().sum(0)
        return solution, error / total

    def _reduce(self) -> None:
        if self._waiting:
            parts = self._waiting if self._factor is None else [self._factor, *self._waiting]
            self._factor = torch.linalg.qr(torch.cat(parts), mode="r")[1]
            self._waiting = []
