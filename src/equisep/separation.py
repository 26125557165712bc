"""Separation fuzziness D = Tr(SS_w SS_b⁺) of features with labels, exact and without a p×p matrix.

SS_b has rank at most K−1, so the trace needs only the K centred class means: with the thin SVD
M = U S Vᵀ of the K×p matrix whose rows are √w_k (x̄_k − x̄),

    D = Tr(SS_w V S⁻² Vᵀ) = Σ_k w_k / n_k Σ_i ‖S⁻¹ Vᵀ (x_ki − x̄_k)‖²,      w_k = n_k / n,

where singular values with S² ≤ p·ε·S²_max count as zero, as in ``scipy.linalg.pinvh`` and ``pinv``
of SS_b. Two sweeps over the rows and O(pK) memory suffice: class means first, projections second.
Everything is computed in float64 (ε = 2⁻⁵²); the relative error is a few ε·√cond(SS_b).

Source: He & Su, "A Law of Data Separation in Deep Learning", PNAS 120(36), 2023, equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Weighting = Literal["class_size", "equal"]

# Rows are centred and projected in chunks of this many float64 values (16 MiB): large enough for the
# matrix product, small enough to stay near the cache.
CHUNK_VALUES = 1 << 21


@dataclass(frozen=True)
class Separation:
    """How well one layer separates the classes.

    fuzziness: D = Tr(SS_w SS_b⁺), dimensionless, ≥ 0. It is 0 by definition where SS_b = 0 (rank 0).
    rank: number of eigenvalues of SS_b that count as non-zero, at most min(K−1, p).
    classes: K, the number of classes that occur in the labels.
    """

    fuzziness: float
    rank: int
    classes: int

    @property
    def nc1(self) -> float:
        """Within-class variability D / K (NC1 of Papyan, Han & Donoho, PNAS 2020)."""
        return self.fuzziness / self.classes


def separation_fuzziness(features: Any, labels: Any) -> float:
    """Return the separation fuzziness D = Tr(SS_w SS_b⁺) of labelled features.

    features: (n, p) or (n, …), flattened from the second axis on; a tensor or anything
        ``torch.as_tensor`` takes; real and finite.
    labels: (n,) integers, in any numbering; at least two distinct ones. A class of one point is
        allowed: it adds to SS_b and nothing to SS_w.
    Raises ValueError for NaN or infinite features, fewer than two classes, or shapes that do not fit.
    """
    return separation_of(features, labels).fuzziness


def separation_of(features: Any, labels: Any, *, weighting: Weighting = "class_size") -> Separation:
    """Return the separation fuzziness of labelled features together with the rank of SS_b.

    Arguments and errors are those of :func:`separation_fuzziness`. weighting: ``class_size`` gives
    class k the weight n_k/n (the definition), ``equal`` gives every class 1/K; the two agree for
    balanced classes.
    """
    matrix = as_feature_matrix(features)
    sums = ClassSums(as_class_labels(labels, len(matrix)), weighting)
    sums.add(matrix)
    scatter = sums.scatter()
    scatter.add(matrix)
    return scatter.separation()


def as_feature_matrix(features: Any) -> Tensor:
    """Return features as a detached (n, p) tensor; raises ValueError where that is impossible."""
    matrix: Tensor = torch.as_tensor(features).detach()
    if matrix.ndim < 2:
        raise ValueError(f"features must have shape (n, p), got {tuple(matrix.shape)}: give one row per point")
    if matrix.is_complex():
        raise ValueError(f"features must be real numbers, got {matrix.dtype}")
    if matrix.numel() == 0:
        raise ValueError(f"features of shape {tuple(matrix.shape)} hold no values")
    return matrix.flatten(start_dim=1)


def as_class_labels(labels: Any, points: int) -> Tensor:
    """Return labels as (n,) class numbers 0 … K−1; raises ValueError where they do not label n points."""
    classes = torch.as_tensor(labels).detach()
    if classes.shape != (points,):
        raise ValueError(f"labels must have shape ({points},), one per row of the features, got {tuple(classes.shape)}")
    if classes.is_floating_point() or classes.is_complex():
        raise ValueError(f"labels must be integers, got {classes.dtype}: convert them with .long()")
    numbered: Tensor
    values, numbered = torch.unique(classes, return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"separation needs at least two classes, the labels hold one: {values.tolist()}")
    return numbered


class ClassSums:
    """First sweep: the class means of features that arrive in batches of rows, in the order of the labels."""

    def __init__(self, labels: Tensor, weighting: Weighting = "class_size") -> None:
        """labels: (n,) class numbers 0 … K−1, as :func:`as_class_labels` returns them."""
        self.labels = labels
        self.counts = torch.bincount(labels).double()
        share = self.counts / self.counts.sum() if weighting == "class_size" else torch.ones_like(self.counts)
        self.weights = share / share.sum()
        self.seen = 0
        self.origin: Tensor | None = None
        self.sums: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Take the next (b, p) rows; raises ValueError for NaN or infinite values."""
        if self.origin is None or self.sums is None:
            # Summing differences from one point, not the values, keeps a large common offset from
            # eating the digits in which the class means differ.
            self.origin = features[0].double().cpu()
            self.sums = torch.zeros(len(self.counts), features.shape[1], dtype=torch.float64)
        for rows, labels in _chunks(features, self.labels[self.seen : self.seen + len(features)]):
            indicator = torch.zeros(len(self.counts), len(labels), dtype=torch.float64)
            indicator[labels, torch.arange(len(labels))] = 1.0
            self.sums.addmm_(indicator, rows.sub_(self.origin))
        self.seen += len(features)

    def scatter(self) -> WithinClassScatter:
        """Return the second sweep; raises ValueError where a value was not finite or rows are missing."""
        if self.origin is None or self.sums is None or self.seen != len(self.labels):
            raise ValueError(f"{self.seen} rows of features for {len(self.labels)} labels")
        means = self.sums / self.counts[:, None]
        if not torch.isfinite(means).all():
            raise ValueError("features hold NaN or infinite values: the network diverged or the data are damaged")
        centred = (means - self.weights @ means) * self.weights.sqrt()[:, None]
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        floor = centred.shape[1] * torch.finfo(torch.float64).eps * singular[0] ** 2
        kept = singular**2 > floor
        projection = (directions[kept] / singular[kept, None]).T
        return WithinClassScatter(self.labels, self.weights / self.counts, self.origin, means, projection)


class WithinClassScatter:
    """Second sweep: Tr(SS_w SS_b⁺), summed over the same rows, projected on the directions of SS_b."""

    def __init__(self, labels: Tensor, point_weights: Tensor, origin: Tensor, means: Tensor, projection: Tensor):
        """point_weights: (K,) w_k / n_k; means: (K, p) from the origin (p,); projection: (p, rank) V S⁻¹."""
        self.labels = labels
        self.point_weights = point_weights
        self.origin = origin
        self.means = means
        self.projection = projection
        self.seen = 0
        self.total = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Take the next (b, p) rows, the same and in the same order as in the first sweep."""
        for rows, labels in _chunks(features, self.labels[self.seen : self.seen + len(features)]):
            centred = rows.sub_(self.origin).sub_(self.means[labels])
            distances = (centred @ self.projection).square_().sum(dim=1)
            self.total += self.point_weights[labels] @ distances
        self.seen += len(features)

    def separation(self) -> Separation:
        """Return the result; raises ValueError where rows are missing."""
        if self.seen != len(self.labels):
            raise ValueError(f"{self.seen} rows of features for {len(self.labels)} labels")
        return Separation(self.total.item(), self.projection.shape[1], len(self.means))


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float64 copies on the CPU of a few rows at a time, with their labels."""
    rows = max(1, CHUNK_VALUES // features.shape[1])
    for start in range(0, len(features), rows):
        chunk = features[start : start + rows].to(device="cpu", dtype=torch.float64, copy=True)
        yield chunk, labels[start : start + rows]
