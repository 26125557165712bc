"""Separation fuzziness D = Tr(SS_w SS_b⁺) of labelled features, exact and without a p×p matrix.

SS_b has rank at most K−1, so that the trace needs only the K centred class means. With the thin SVD M = U S Vᵀ of the
K×p matrix with rows √w_k (x̄_k − x̄),

    D = Tr(SS_w V S⁻² Vᵀ) = Σ_k w_k / n_k Σ_i ‖S⁻¹ Vᵀ (x_ki − x̄_k)‖²,      w_k = n_k / n,

where singular values with S² ≤ p·ε·S²_max count as zero, as in ``scipy.linalg.pinv`` of SS_b. U and S are those of the
K×K triangle of Mᵀ = Q R, and V S⁻¹ = Mᵀ U S⁻². This takes two passes over the rows, for class means and projections,
and O(pK) memory, on the device of the features.

Products over the points are in float64 (ε = 2⁻⁵²), or in float32 where that is asked for. In float64 class means lose
no digits to a common offset or a wide spread within classes, and the relative error of D is that of M's decomposition,
a few ε·√cond(SS_b). Float32 features are projected before their class means are subtracted, which saves a quarter of
the time and adds ε·|x| / (spread within classes): nothing, unless classes are as narrow as float32 resolves.

Source: He & Su, "A Law of Data Separation in Deep Learning", PNAS 120(36), 2023, equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Weighting = Literal["class_size", "equal"]
WEIGHTINGS = ("class_size", "equal")
PRECISIONS = (torch.float64, torch.float32)
# On a CPU, products are taken of blocks of this many values (512 KiB as float64), which stay in its second-level cache,
# and of so many columns, so that their class means do too. Other devices take blocks of 128 MiB.
CACHED_VALUES, CACHED_COLUMNS = 1 << 16, 1 << 11
DEVICE_VALUES = 1 << 24


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


def separation_fuzziness(features: Any, labels: Any, *, precision: torch.dtype = torch.float64) -> float:
    """Return the separation fuzziness D = Tr(SS_w SS_b⁺) of labelled features.

    features: (n, …), flattened from the second axis on; a tensor, array, data frame or nested lists; real and finite.
    labels: (n,) integers, at least two distinct. A class with a single point contributes to SS_b but not to SS_w.
    precision: of the products over points, float64 (a relative error below 1e-9) or float32 (about 1e-5).
    Raises ValueError for fewer than two classes, mismatched shapes or another precision, and its subclass NotFinite for
    NaN or infinite features.
    """
    return separation_of(features, labels, precision=precision).fuzziness


def separation_of(
    features: Any, labels: Any, *, weighting: Weighting = "class_size", precision: torch.dtype = torch.float64
) -> Separation:
    """Return the separation fuzziness of labelled features with the rank of SS_b.

    Arguments and errors as in :func:`separation_fuzziness`. weighting: ``class_size`` gives class k the weight n_k/n
    (the definition), ``equal`` the weight 1/K; both agree for balanced classes.
    """
    matrix = as_feature_matrix(features)
    return separations_of_classes(matrix, as_class_labels(labels, len(matrix)), weighting, precision)[0]


def separations_of_classes(
    features: Tensor, classes: Tensor, weighting: Weighting, precision: torch.dtype = torch.float64
) -> tuple[Separation, ...]:
    """Return the separations of (n, p) or (draws, n, p) features by class numbers from :func:`as_class_labels`.

    Raises NotFinite.
    """
    return _scatter_of(features, classes, weighting, precision).separations()


def fuzziness_of_draws(
    features: Tensor,
    labels: Tensor,
    *,
    weighting: Weighting = "class_size",
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Return the separation fuzziness of several draws of features of the same points.

    features: (draws, n, p), real; labels: (n,) class numbers 0 … K−1; weighting, precision: as in
    :func:`separation_of`. Returns (draws,) float64 on the features' device; NaN where features are not finite.
    """
    return _scatter_of(features, labels, weighting, precision).fuzziness()


def _scatter_of(features: Tensor, classes: Tensor, weighting: Weighting, precision: torch.dtype) -> WithinClassScatter:
    """Return both passes over (n, p) or (draws, n, p) features."""
    sums = ClassSums(classes, weighting, precision)
    sums.add(features)
    scatter = sums.scatter()
    scatter.add(features)
    return scatter


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
    """First pass: class means of features added in batches of rows, in the order of the labels."""

    def __init__(
        self, labels: Tensor, weighting: Weighting = "class_size", precision: torch.dtype = torch.float64
    ) -> None:
        """labels: (n,) class numbers 0 … K−1, as :func:`as_class_labels` returns them."""
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}: choose one of {', '.join(map(str, PRECISIONS))}")
        self.labels = labels
        self.counts = torch.bincount(labels).double()
        self.weighting = weighting
        self.precision = precision
        self.seen = 0
        # Whether both features and products are in float64.
        self.double = False
        self.sums: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Add the next (b, p) rows, or (draws, b, p) of several draws."""
        features = _as_draws(features)
        if not self.sums:
            self.double = self.precision == features.dtype == torch.float64
            self.labels, self.counts = self.labels.to(features.device), self.counts.to(features.device)
            shape = len(features), len(self.counts), features.shape[2]
            zeros = torch.zeros(shape, dtype=self.precision, device=features.device)
            self.sums = [zeros, zeros.clone()] if self.double else [zeros]
        members = _indicator(_next(self.labels, self.seen, features), self.sums[0])
        for values, (members_of_rows,), sums in _blocks(features, self.precision, [members], self.sums):
            # Float64 sums of up to 24 leading bits are exact where values are of one magnitude.
            parts = _leading_and_other_bits(values) if self.double else [values]
            for total, part in zip(sums, parts, strict=True):
                total.baddbmm_(members_of_rows.mT, part)
        self.seen += features.shape[1]

    def scatter(self) -> WithinClassScatter:
        """Return the second pass; raises ValueError for missing rows."""
        _require_all(self.seen, self.labels)
        shares = self.counts if self.weighting == "class_size" else torch.ones_like(self.counts)
        weights = shares / shares.sum()
        first, *others = (sums.double() for sums in self.sums)
        # Relative to a rounded centre, whose multiples are exact, class means keep all digits despite an offset.
        centre, _ = _leading_and_other_bits(first.sum(1, keepdim=True) / len(self.labels))
        means = sum(others, first - self.counts[:, None] * centre) / self.counts[:, None]
        centred = (means - (weights @ means)[:, None]) * weights.sqrt()[:, None]
        largest = (means + centre).abs().amax((1, 2))
        finite = largest.isfinite()
        if not finite.all():
            centred = torch.where(finite[:, None, None], centred, 0.0)
        # R is K×K: its decomposition costs nothing, and centredᵀ left = V S gives V without Q.
        left, singular, _ = torch.linalg.svd(torch.linalg.qr(centred.mT, mode="r").R.mT, full_matrices=False)
        classes, width = centred.shape[1:]
        largest_rank = min(classes - 1, width)
        left, singular = left[:, :, :largest_rank], singular[:, :largest_rank]
        smallest = (width * torch.finfo(torch.float64).eps) ** 0.5 * singular[:, :1]
        # Class means that differ only by the rounding of their sums coincide.
        rounding = classes * width**0.5 * torch.finfo(self.precision).eps * largest[:, None]
        kept = (singular > smallest) & (singular > rounding)
        # Divided twice: the square of a singular value may overflow.
        divisor = torch.where(kept, singular, torch.inf)[:, None]
        projection = centred.mT @ left / divisor / divisor
        rank = torch.where(finite, kept.sum(1), -1)
        # Rounded class means are subtracted from float64 features before the projection, and what is left after it.
        rounded = [means + centre] if self.double else []
        rest = means - (rounded[0] - centre) if rounded else means + centre
        projection = projection.to(self.precision)
        offsets = (rest @ projection.double()).to(self.precision)
        return WithinClassScatter(self.labels, weights / self.counts, rounded, projection, offsets, rank)


class PrincipalComponents:
    """The first principal components of features, for projecting other rows of the same features.

    The axes are the leading right singular vectors of the centred (n, p) features, computed in float64 from the n×n
    Gram matrix, without the p×p covariance. Features of lower rank keep as many axes as their rank.
    """

    def __init__(self, features: Tensor, components: int) -> None:
        """features: (n, p), n up to several thousand; components: ≥ 1. Raises NotFinite."""
        centred = _as_draws(features)[0].to(torch.float64, copy=True)
        self.mean = centred.mean(dim=0)
        centred -= self.mean
        _require_finite(centred)
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        leading = variances.argsort(descending=True)[:components]
        usable = variances[leading] > len(centred) * torch.finfo(torch.float64).eps * variances.max()
        # Constant features have rank 0 and keep one axis of zeros: their projection is constant too.
        kept = leading[usable] if usable.any() else leading[:1]
        lengths = torch.where(variances[kept] > 0, variances[kept], 1.0).sqrt()
        self.axes = centred.T @ (vectors[:, kept] / lengths)

    def project(self, features: Tensor) -> Tensor:
        """Return (b, p) features as (b, components) float64 coordinates."""
        coordinates: Tensor = (_as_draws(features)[0].double() - self.mean) @ self.axes
        return coordinates


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise NotFinite("features contain NaN or infinite values or overflow: the network diverged or the data are bad")


def _as_draws(features: Tensor) -> Tensor:
    """Return (b, p) features as one draw (1, b, p), on a device that has float64: Apple's GPUs have not."""
    stacked = features[None] if features.ndim == 2 else features
    return stacked.cpu() if stacked.device.type == "mps" else stacked


def _blocks(
    features: Tensor, precision: torch.dtype, of_rows: Sequence[Tensor], of_columns: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]]:
    """Yield the values of each block of (draws, b, p) features, and the parts of other tensors that belong to it.

    of_rows: (draws, b, …); of_columns: (draws, …, p). Values are in the given precision; float64 ones are copies.
    """
    draws, points, width = features.shape
    if features.dtype == precision != torch.float64:
        yield features, of_rows, of_columns
        return
    on_cpu = features.device.type == "cpu"
    columns = min(width, CACHED_COLUMNS) if on_cpu else width
    rows = max(1, (CACHED_VALUES * torch.get_num_threads() if on_cpu else DEVICE_VALUES) // (columns * draws))
    copies = torch.empty(draws * min(points, rows) * columns, dtype=precision, device=features.device)
    for part, *column_parts in zip(
        *(torch.split(tensor, columns, 2) for tensor in (features, *of_columns)), strict=True
    ):
        for block, *row_parts in zip(*(torch.split(tensor, rows, 1) for tensor in (part, *of_rows)), strict=True):
            yield copies[: block.numel()].view(block.shape).copy_(block), row_parts, column_parts


def _leading_and_other_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 values as sums of their 24 leading bits and the 29 others (Veltkamp)."""
    scaled = values * (2.0**29 + 1)
    leading = scaled - (scaled - values)
    return leading, values - leading


def _next(labels: Tensor, seen: int, features: Tensor) -> Tensor:
    """Return the labels of the next rows (draws, b, p); raises ValueError where there are too few."""
    following = labels[seen : seen + features.shape[1]]
    if len(following) < features.shape[1]:
        raise ValueError(f"{seen + features.shape[1]} rows of features for {len(labels)} labels")
    return following


def _require_all(seen: int, labels: Tensor) -> None:
    if seen != len(labels):
        raise ValueError(f"{seen} rows of features for {len(labels)} labels")


def _indicator(labels: Tensor, of_classes: Tensor) -> Tensor:
    """Return ones where a point is of a class and zeros, (draws, n, K), for a tensor (draws, K, …) of classes."""
    draws, classes = of_classes.shape[:2]
    indicator = labels[:, None] == torch.arange(classes, device=labels.device)
    return indicator.to(of_classes.dtype).expand(draws, -1, -1)


class WithinClassScatter:
    """Second pass: Tr(SS_w SS_b⁺), summed over the same rows projected on the range of SS_b."""

    def __init__(
        self,
        labels: Tensor,
        point_weights: Tensor,
        centres: Sequence[Tensor],
        projection: Tensor,
        offsets: Tensor,
        rank: Tensor,
    ) -> None:
        """labels: (n,). point_weights: (K,) w_k / n_k.

        centres: class means (draws, K, p) that are subtracted from the features, or none; projection: (draws, p, r)
        V S⁻¹; offsets: (draws, K, r), subtracted from the projected features; rank: (draws,), −1 where features are not
        finite.
        """
        self.labels, self.point_weights, self.rank = labels, point_weights, rank
        self.centres, self.projection, self.offsets = centres, projection, offsets
        self.seen = 0
        self.total = torch.zeros(len(rank), dtype=torch.float64, device=rank.device)

    def add(self, features: Tensor) -> None:
        """Add the next rows, in the same order as in the first pass."""
        features = _as_draws(features)
        labels = _next(self.labels, self.seen, features)
        members = _indicator(labels, self.offsets)
        projected = members @ self.offsets.neg()
        of_rows, of_columns = [members, projected], [self.projection.mT, *self.centres]
        for values, (members_of_rows, sums), (directions, *centres) in _blocks(
            features, self.projection.dtype, of_rows, of_columns
        ):
            for centre in centres:
                values.baddbmm_(members_of_rows, centre, alpha=-1)
            sums.baddbmm_(values, directions.mT)
        self.total += projected.square_().sum(2).double() @ self.point_weights[labels]
        self.seen += features.shape[1]

    def fuzziness(self) -> Tensor:
        """Return D (draws,), float64, NaN where features are not finite; raises ValueError for missing rows."""
        _require_all(self.seen, self.labels)
        return torch.where(self.rank < 0, torch.nan, self.total)

    def separations(self) -> tuple[Separation, ...]:
        """Return the result per draw; raises NotFinite for NaN or infinite values, ValueError as above."""
        fuzziness = self.fuzziness()
        _require_finite(fuzziness)
        pairs = zip(fuzziness.tolist(), self.rank.tolist(), strict=True)
        return tuple(Separation(value, rank, len(self.point_weights)) for value, rank in pairs)
