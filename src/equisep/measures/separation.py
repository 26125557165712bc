"""Separation fuzziness D = Tr(SS_w SS_b⁺) of labelled features, exact and without a p×p matrix.

SS_b has rank at most K−1, so that the trace needs only the K centred class means. With the thin SVD M = U S Vᵀ of the
K×p matrix with rows √w_k (x̄_k − x̄),

    D = Tr(SS_w V S⁻² Vᵀ) = Σ_k w_k / n_k Σ_i ‖S⁻¹ Vᵀ (x_ki − x̄_k)‖²,      w_k = n_k / n,

where singular values with S² ≤ p·ε·S²_max count as zero, as in ``scipy.linalg.pinv`` of SS_b. This takes two passes
over the rows, for class means and projections, and O(pK) memory. All computations are in float64 (ε = 2⁻⁵²). Class
means are summed without rounding, so that no digits are lost to a common offset or a wide spread within classes; the
remaining relative error of D is that of the SVD, a few ε·√cond(SS_b).

Source: He & Su, "A Law of Data Separation in Deep Learning", PNAS 120(36), 2023, equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Weighting = Literal["class_size", "equal"]
WEIGHTINGS = ("class_size", "equal")
# Rows are processed in chunks of this many float64 values (16 MiB): large enough for efficient matrix products, small
# enough for the cache.
CHUNK_VALUES = 1 << 21
# Up to as many classes, class means are subtracted by a matrix product.
FEW_CLASSES = 32


class NotFinite(ValueError):
    """Features contain NaN or infinite values."""


@dataclass(frozen=True)
class Separation:
    """Separation of the classes at one layer.

    fuzziness: D = Tr(SS_w SS_b⁺), dimensionless, ≥ 0; 0 by definition where SS_b = 0 (rank 0).
    rank: numerical rank of SS_b, at most min(K−1, p).
    classes: K, the number of distinct labels.
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

    features: (n, …), flattened from the second axis on; a tensor, array, data frame or nested lists; real and finite.
    labels: (n,) integers, at least two distinct. A class with a single point contributes to SS_b but not to SS_w.
    Raises ValueError for fewer than two classes or mismatched shapes, and its subclass NotFinite for NaN or infinite
    features.
    """
    return separation_of(features, labels).fuzziness


def separation_of(features: Any, labels: Any, *, weighting: Weighting = "class_size") -> Separation:
    """Return the separation fuzziness of labelled features with the rank of SS_b.

    Arguments and errors as in :func:`separation_fuzziness`. weighting: ``class_size`` gives class k the weight n_k/n
    (the definition), ``equal`` the weight 1/K; both agree for balanced classes.
    """
    matrix = as_feature_matrix(features)
    return separation_of_classes(matrix, as_class_labels(labels, len(matrix)), weighting)


def separation_of_classes(matrix: Tensor, classes: Tensor, weighting: Weighting) -> Separation:
    """Return the separation of a (n, p) matrix by class numbers from :func:`as_class_labels`, without checks."""
    sums = ClassSums(classes, weighting)
    sums.add(matrix)
    scatter = sums.scatter()
    scatter.add(matrix)
    return scatter.separation()


def fuzziness_of_draws(features: Tensor, labels: Tensor, *, weighting: Weighting = "class_size") -> Tensor:
    """Return the separation fuzziness of several draws of features of the same points.

    features: (draws, n, p), floating point; labels: (n,) class numbers 0 … K−1; weighting: as in :func:`separation_of`.
    Returns (draws,) float64; NaN where features are not finite. Products over the points are in the features'
    precision (in float32 a relative error of about 1e-5 at a tenth of the cost), the K×K algebra in float64: with
    the Gram matrix M Mᵀ = U S² Uᵀ of the weighted class means, V S⁻¹ = Mᵀ U S⁻².
    """
    points, width = features.shape[1:]
    counts = torch.bincount(labels)
    shares = torch.nn.functional.one_hot(labels, len(counts)).to(features.dtype) / counts
    weights = counts.double() / points
    if weighting == "equal":
        weights = torch.full_like(weights, 1 / len(counts))
    means = (shares.T @ features).double()
    # Centred on the weighted mean of the means themselves, so that the centred means are linearly dependent.
    centred = (means - (weights[:, None] * means).sum(1, keepdim=True)) * weights.sqrt()[:, None]
    finite = centred.isfinite().all(2).all(1)
    centred = torch.where(finite[:, None, None], centred, 0.0)
    squares, vectors = torch.linalg.eigh(centred @ centred.mT)
    # Class means that differ only by the rounding of their sums coincide.
    rounding = torch.finfo(features.dtype).eps * torch.where(finite, means.abs().amax((1, 2)), 0.0)
    smallest = max(width, len(counts)) * torch.finfo(torch.float64).eps * squares.amax(1, keepdim=True)
    kept = squares > torch.maximum(smallest, width * rounding.square()[:, None])
    # Eigenvalues are ascending; those beyond the largest possible rank are rounding errors.
    kept[:, : len(counts) - min(len(counts) - 1, width)] = False
    inverse = torch.where(kept, 1 / squares, 0.0)
    projected = features @ (centred.mT @ (vectors * inverse[:, None, :])).to(features.dtype)
    deviations = projected - (shares.T @ projected)[:, labels]
    fuzziness = deviations.square().sum(2).double() @ (weights / counts)[labels]
    return torch.where(finite, fuzziness, torch.nan)


def as_feature_matrix(features: Any) -> Tensor:
    """Return features as a detached (n, p) tensor; raises ValueError for other shapes or complex numbers."""
    matrix = _as_tensor(features, "features")
    if matrix.ndim < 2:
        raise ValueError(f"features must have shape (n, p), one row per point, not {tuple(matrix.shape)}")
    if matrix.is_complex():
        raise ValueError(f"features must be real numbers, not {matrix.dtype}")
    if matrix.numel() == 0:
        raise ValueError(f"features of shape {tuple(matrix.shape)} have no values")
    return matrix.flatten(start_dim=1)


def as_class_labels(labels: Any, points: int) -> Tensor:
    """Return integer labels of n points as (n,) class numbers 0 … K−1; raises ValueError for other labels."""
    classes = _as_tensor(labels, "labels").cpu()
    if classes.shape != (points,):
        raise ValueError(f"labels must have shape ({points},), one per row of the features, not {tuple(classes.shape)}")
    if classes.is_floating_point() or classes.is_complex():
        raise ValueError(f"labels must be integers, not {classes.dtype}: convert them with .long()")
    numbered: Tensor
    values, numbered = torch.unique(classes, return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"separation needs at least two classes, not one: {values.tolist()}")
    return numbered


def _as_tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        # A copy in native byte order and with positive strides, as torch requires.
        array = np.array(values)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} are not an array of numbers: {str(error).splitlines()[0]}") from None


class ClassSums:
    """First pass: class means of features added in batches of rows, in the order of the labels.

    Each sum is an unevaluated pair (high, low) of float64, with twice the precision.
    """

    def __init__(self, labels: Tensor, weighting: Weighting = "class_size") -> None:
        """labels: (n,) class numbers 0 … K−1, as :func:`as_class_labels` returns them."""
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
        self.labels = labels
        self.counts = torch.bincount(labels).double()
        self.weighting = weighting
        self.seen = 0
        self.high: Tensor | None = None
        self.low: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Add the next (b, p) rows."""
        if self.high is None or self.low is None:
            self.high = torch.zeros(len(self.counts), features.shape[1], dtype=torch.float64)
            self.low = torch.zeros_like(self.high)
        for rows, labels in _chunks(features, self.labels[self.seen : self.seen + len(features)]):
            indicator = _indicator(labels, len(self.counts))
            # Rounded to a grid this coarse, a power of two, the rows of a chunk are summed without error.
            lowest, highest = torch.aminmax(rows)
            bound = torch.maximum(-lowest, highest) * len(rows) * 2.0**-51
            grid = 1.5 * 2.0**52 * torch.ldexp(torch.ones_like(bound), torch.frexp(bound).exponent)
            coarse = (rows + grid).sub_(grid)
            self.high, error = _two_sum(self.high, indicator @ coarse)
            self.low += error + indicator @ rows.sub_(coarse)
        self.seen += len(features)

    def scatter(self) -> WithinClassScatter:
        """Return the second pass; raises NotFinite for NaN or infinite values, ValueError for missing rows."""
        if self.high is None or self.low is None or self.seen != len(self.labels):
            raise ValueError(f"{self.seen} rows of features for {len(self.labels)} labels")
        counts = self.counts[:, None]
        means = _divide(self.high, self.low, counts)
        if self.weighting == "class_size":
            weights = self.counts / self.counts.sum()
            centre = _divide(*_add_up(self.high, self.low), self.counts.sum())
        else:
            weights = torch.full_like(self.counts, 1 / len(self.counts))
            centre = _divide(*_add_up(*means), torch.tensor(float(len(self.counts)), dtype=torch.float64))
        centred = ((means[0] - centre[0]) + (means[1] - centre[1])) * weights.sqrt()[:, None]
        _require_finite(centred)
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        kept = singular > (centred.shape[1] * torch.finfo(torch.float64).eps) ** 0.5 * singular[0]
        projection = (directions[kept] / singular[kept, None]).T
        return WithinClassScatter(self.labels, weights / self.counts, means, projection)


class PrincipalComponents:
    """The first principal components of features, for projecting other rows of the same features.

    The axes are the leading right singular vectors of the centred (n, p) features, computed in float64 from the n×n
    Gram matrix, without the p×p covariance. Features of lower rank keep as many axes as their rank.
    """

    def __init__(self, features: Tensor, components: int) -> None:
        """features: (n, p), n up to several thousand; components: ≥ 1. Raises NotFinite."""
        count, width = features.shape
        total = torch.zeros(width, dtype=torch.float64)
        for rows in _row_chunks(features):
            total += rows.sum(dim=0)
        self.mean = total / count
        centred = torch.cat([rows - self.mean for rows in _row_chunks(features)])
        _require_finite(centred)
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        leading = variances.argsort(descending=True)[:components]
        usable = variances[leading] > count * torch.finfo(torch.float64).eps * variances.max()
        # Constant features have rank 0 and keep one axis of zeros: their projection is constant too.
        kept = leading[usable] if usable.any() else leading[:1]
        lengths = torch.where(variances[kept] > 0, variances[kept], 1.0).sqrt()
        self.axes = centred.T @ (vectors[:, kept] / lengths)

    def project(self, features: Tensor) -> Tensor:
        """Return (b, p) features as (b, components) float64 coordinates on the CPU."""
        return torch.cat([(rows - self.mean) @ self.axes for rows in _row_chunks(features)])


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise NotFinite("features contain NaN or infinite values or overflow: the network diverged or the data are bad")


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float64 copies on the CPU, in chunks of rows, with their labels."""
    start = 0
    for rows in _row_chunks(features):
        yield rows, labels[start : start + len(rows)]
        start += len(rows)


def _indicator(labels: Tensor, classes: int) -> Tensor:
    """Return the (K, n) matrix of ones where a point is of a class, and zeros."""
    indicator = torch.zeros(classes, len(labels), dtype=torch.float64)
    indicator[labels, torch.arange(len(labels))] = 1.0
    return indicator


def _row_chunks(features: Tensor) -> Iterator[Tensor]:
    """Yield float64 copies on the CPU, in chunks of rows."""
    for rows in torch.split(features, max(1, CHUNK_VALUES // features.shape[1])):
        yield rows.to(device="cpu", dtype=torch.float64, copy=True)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a + b rounded, and the exact rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _add_up(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of a (K, p) pair, as a (p,) pair."""
    total, rest = high[0], low[0]
    for row_high, row_low in zip(high[1:], low[1:], strict=True):
        total, error = _two_sum(total, row_high)
        rest = rest + error + row_low
    return total, rest


def _divide(high: Tensor, low: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return a pair divided by an integer below 2²⁶, as a pair."""
    quotient = (high + low) / count
    scaled = quotient * (2.0**27 + 1)
    upper = scaled - (scaled - quotient)
    # Both products are exact: upper has 26 bits, quotient − upper has 27.
    remainder = ((high - count * upper) - count * (quotient - upper)) + low
    return quotient, remainder / count


class WithinClassScatter:
    """Second pass: Tr(SS_w SS_b⁺), summed over the same rows projected on the range of SS_b."""

    def __init__(self, labels: Tensor, point_weights: Tensor, means: tuple[Tensor, Tensor], projection: Tensor) -> None:
        """point_weights: (K,) w_k / n_k; means: (K, p) class means as a pair; projection: (p, rank) V S⁻¹."""
        self.labels = labels
        self.point_weights = point_weights
        self.means = means
        self.projection = projection
        self.seen = 0
        self.total = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add the next (b, p) rows, in the same order as in the first pass."""
        for rows, labels in _chunks(features, self.labels[self.seen : self.seen + len(features)]):
            deviations = rows
            for means in self.means:
                if len(means) <= FEW_CLASSES:
                    # The same values as below, since products with ones and zeros are exact, in a third of the time.
                    deviations.addmm_(_indicator(labels, len(means)).T, means, alpha=-1)
                else:
                    deviations.sub_(means[labels])
            distances = (deviations @ self.projection).square_().sum(dim=1)
            self.total += self.point_weights[labels] @ distances
        self.seen += len(features)

    def separation(self) -> Separation:
        """Return the result; raises ValueError for missing rows."""
        if self.seen != len(self.labels):
            raise ValueError(f"{self.seen} rows of features for {len(self.labels)} labels")
        return Separation(self.total.item(), self.projection.shape[1], len(self.point_weights))
