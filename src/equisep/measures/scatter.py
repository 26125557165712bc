"""The two passes over labelled features that separation fuzziness needs; the formulas are those of separation.py.

Features are (b, p) rows, or (draws, b, p) of several draws of the same points, added in batches on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["class_size", "equal"]
WEIGHTINGS = ("class_size", "equal")
PRECISIONS = (torch.float64, torch.float32)
# On a CPU, products are taken of blocks of this many values (512 KiB as float64), which stay in its second-level cache,
# and of so many columns, so that their class means do too. Other devices take blocks of 128 MiB.
CACHED_VALUES, CACHED_COLUMNS = 1 << 16, 1 << 11
DEVICE_VALUES = 1 << 24
# Draws share a block while it has at least so many rows.
LEAST_ROWS = 32
# Sums of float32 products over so many rows are added up in float64. Where a library adds one row after the other, sums
# of equal values are wrong by a tenth of the number of rows, in units of the last place.
SINGLE_ROWS = 1 << 7
# Values of an indicator of classes, 8 MiB as float64.
INDICATOR_VALUES = 1 << 20
# The common centre of float32 features is subtracted where it is so many times the largest distance of a class mean
# from it; a smaller one costs no digit.
LARGE_OFFSET = 10.0


class NotFinite(ValueError):
    """Features contain NaN or infinite values."""


class ClassSums:
    """First pass: class means of features added in batches of rows."""

    def __init__(
        self, labels: Tensor | int, weighting: Weighting = "class_size", precision: torch.dtype = torch.float64
    ) -> None:
        """labels: (n,) class numbers 0 … K−1 of the rows in order, as :func:`as_class_labels` returns them; or K, where
        rows are added with their labels.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}: choose one of {', '.join(map(str, PRECISIONS))}")
        self.labels = labels if isinstance(labels, Tensor) else None
        classes = labels if isinstance(labels, int) else int(labels.max()) + 1
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.weighting = weighting
        self.precision = precision
        self.seen = 0
        # Whether both features and products are in float64.
        self.double = False
        self.sums: list[Tensor] = []

    def add(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Add the next (b, p) rows, or (draws, b, p) of several draws; raises ValueError for another width.

        labels: (b,) class numbers of the rows, where they were not all given before.
        """
        features = as_draws(features)
        if not self.sums:
            self.double = self.precision == features.dtype == torch.float64
            self.counts = self.counts.to(features.device)
            shape = len(features), len(self.counts), features.shape[2]
            sums = torch.zeros(shape, dtype=torch.float64, device=features.device)
            self.sums = [sums, sums.clone()] if self.double else [sums]
        _require_width(features, self.sums[0].shape[2])
        for part, of_part in _parts(features, self._labels_of(features, labels), len(self.counts), self.precision):
            self.counts += torch.bincount(of_part, minlength=len(self.counts))
            members = _indicator(of_part, len(self.counts), self.precision).expand(len(part), -1, -1)
            for values, (members_of_rows,), totals in _blocks(part, self.precision, [members], self.sums):
                if self.precision != torch.float64:
                    totals[0].add_(members_of_rows.mT @ values)
                    continue
                # Float64 sums of up to 24 leading bits are exact where values are of one magnitude.
                summands = _leading_and_other_bits(values) if self.double else [values]
                for total, summand in zip(totals, summands, strict=True):
                    total.baddbmm_(members_of_rows.mT, summand)
        self.seen += features.shape[1]

    def _labels_of(self, features: Tensor, labels: Tensor | None) -> Tensor:
        following = self.labels[self.seen :] if labels is None and self.labels is not None else labels
        assert following is not None, "neither all labels nor those of the rows are given"
        return following.to(features.device)

    def scatter(self, *, subtract_means: bool = False) -> WithinClassScatter:
        """Return the second pass; raises ValueError for missing rows.

        subtract_means: whether class means are subtracted before the projection, also where this is not needed for it;
        in float64 alone.
        """
        assert self.precision == torch.float64 or not subtract_means
        if self.labels is not None:
            _require_all(self.seen, len(self.labels))
        shares = self.counts if self.weighting == "class_size" else torch.ones_like(self.counts)
        weights = shares / shares.sum()
        first, *others = self.sums
        # Relative to a rounded centre, whose multiples are exact, class means keep all digits despite an offset.
        centre, _ = _leading_and_other_bits(first.sum(1, keepdim=True) / self.seen)
        means = sum(others, first - self.counts[:, None] * centre) / self.counts[:, None]
        centred = (means - (weights @ means)[:, None]) * weights.sqrt()[:, None]
        largest = (means + centre).abs().amax((1, 2))
        finite = largest.isfinite()
        if not finite.all():
            centred = torch.where(finite[:, None, None], centred, 0.0)
        basis, triangle = torch.linalg.qr(centred.mT)
        left, singular, _ = torch.linalg.svd(triangle, full_matrices=False)
        classes, width = centred.shape[1:]
        largest_rank = min(classes - 1, width)
        left, singular = left[:, :, :largest_rank], singular[:, :largest_rank]
        smallest = (width * torch.finfo(torch.float64).eps) ** 0.5 * singular[:, :1]
        # Class means that differ only by the rounding of their sums coincide.
        rounding = 4 * classes * width**0.5 * torch.finfo(self.precision).eps * largest[:, None]
        kept = (singular > smallest) & (singular > rounding)
        projection = (basis @ left / torch.where(kept, singular, torch.inf)[:, None]).to(self.precision)
        rank = torch.where(finite, kept.sum(1), -1)
        if self.double or subtract_means:
            subtracted = means + centre
            rest = means - (subtracted - centre)
        elif self.precision == torch.float64 and centre.abs().amax() > LARGE_OFFSET * means.abs().amax():
            subtracted, rest = centre, means
        else:
            subtracted, rest = None, means + centre
        offsets = (rest @ projection.double()).to(self.precision)
        return WithinClassScatter(
            self.labels, self.counts, weights / self.counts, subtracted, projection, offsets, rank
        )


class WithinClassScatter:
    """Second pass: Tr(SS_w SS_b⁺), summed over the same rows projected on the range of SS_b."""

    def __init__(
        self,
        labels: Tensor | None,
        counts: Tensor,
        point_weights: Tensor,
        subtracted: Tensor | None,
        projection: Tensor,
        offsets: Tensor,
        rank: Tensor,
    ) -> None:
        """labels: (n,), or None where rows are added with theirs. counts: (K,) n_k. point_weights: (K,) w_k / n_k.

        subtracted: from the features before the projection, class means (draws, K, p), a centre (draws, 1, p) or
        nothing; projection: (draws, p, r) V S⁻¹; offsets: (draws, K, r), subtracted from the projected features; rank:
        (draws,), −1 where features are not finite.
        """
        self.labels, self.counts, self.point_weights, self.rank = labels, counts, point_weights, rank
        self.subtracted, self.projection, self.offsets = subtracted, projection, offsets
        self.seen = 0
        self.total = torch.zeros(len(rank), dtype=torch.float64, device=rank.device)

    def add(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Add the next rows, the same as in the first pass; raises ValueError for another width.

        labels: (b,) class numbers of the rows, where they were not all given before.
        """
        for of_part, projected, _ in self.project(features, labels):
            self.total += projected.square_().sum(2).double() @ self.point_weights[of_part]
            self.seen += projected.shape[1]

    def project(
        self, features: Tensor, labels: Tensor | None = None, *, squares: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield parts of rows: labels (b,), (x − x̄_k) V S⁻¹ (draws, b, r) and ‖x − x̄_k‖² (draws, b).

        squares: whether the last are computed; class means must be subtracted for it.
        """
        features = as_draws(features)
        _require_width(features, self.projection.shape[1])
        following = self.labels[self.seen :] if labels is None and self.labels is not None else labels
        assert following is not None, "neither all labels nor those of the rows are given"
        classes, precision = len(self.point_weights), self.projection.dtype
        of_classes = self.subtracted is not None and self.subtracted.shape[1] == classes
        of_columns = [self.projection.mT, *([] if self.subtracted is None else [self.subtracted])]
        for part, of_part in _parts(features, following.to(features.device), classes, precision):
            projected = self.offsets.index_select(1, of_part).neg_()
            norms = projected.new_zeros(projected.shape[:2], dtype=torch.float64) if squares else None
            of_rows = [projected, *([] if norms is None else [norms])]
            if of_classes:
                of_rows.append(of_part.expand(len(part), -1))
            for values, rows, (directions, *subtracted) in _blocks(part, precision, of_rows, of_columns):
                for means in subtracted:
                    values.sub_(means.index_select(1, rows[-1][0]) if of_classes else means)
                rows[0].baddbmm_(values, directions.mT)
                if norms is not None:
                    rows[1].add_(torch.linalg.vecdot(values, values))
            yield of_part, projected, norms

    def fuzziness(self) -> Tensor:
        """Return D (draws,), float64, NaN where features are not finite; raises ValueError for missing rows."""
        _require_all(self.seen, int(self.counts.sum()))
        return torch.where(self.rank < 0, torch.nan, self.total)


def require_finite(values: Tensor) -> None:
    """Raise NotFinite for NaN or infinite values."""
    if not torch.isfinite(values).all():
        problem = "features contain NaN or infinite values or overflow"
        raise NotFinite(f"{problem}: the network diverged or the data are bad")


def as_draws(features: Tensor) -> Tensor:
    """Return (b, p) features as one draw (1, b, p), on a device that has float64: Apple's GPUs have not."""
    stacked = features[None] if features.ndim == 2 else features
    return stacked.cpu() if stacked.device.type == "mps" else stacked


def _parts(features: Tensor, labels: Tensor, classes: int, precision: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the rows (draws, b, p) with their labels; raises ValueError where there are too few labels."""
    points = features.shape[1]
    if len(labels) < points:
        raise ValueError(f"{points - len(labels)} more rows of features than labels")
    rows = max(1, INDICATOR_VALUES // classes)
    rows = rows if precision == torch.float64 else min(rows, SINGLE_ROWS)
    yield from zip(torch.split(features, rows, 1), torch.split(labels[:points], rows), strict=True)


def _blocks(
    features: Tensor, precision: torch.dtype, of_rows: Sequence[Tensor], of_columns: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]]:
    """Yield the values of each block of (draws, b, p) features, and the parts of other tensors that belong to it.

    of_rows: (draws, b, …); of_columns: (draws, …, p). Values are in the given precision. In float64 they are copies
    that may be changed, valid until the next block.
    """
    draws, points, width = features.shape
    if features.dtype == precision != torch.float64:
        yield features, of_rows, of_columns
        return
    on_cpu = features.device.type == "cpu"
    columns = min(width, CACHED_COLUMNS) if on_cpu else width
    size = CACHED_VALUES * torch.get_num_threads() if on_cpu else DEVICE_VALUES
    together = min(draws, max(1, size // (columns * min(points, LEAST_ROWS))))
    rows = min(points, max(1, size // (columns * together)))
    copies = torch.empty(together * rows * columns, dtype=precision, device=features.device)
    tensors = (features, *of_rows, *of_columns)
    for part, *others in zip(*(torch.split(tensor, together) for tensor in tensors), strict=True):
        rows_of_part, columns_of_part = others[: len(of_rows)], others[len(of_rows) :]
        for strip, *column_parts in _zip_split([part, *columns_of_part], columns, 2):
            for block, *row_parts in _zip_split([strip, *rows_of_part], rows, 1):
                yield copies[: block.numel()].view(block.shape).copy_(block), row_parts, column_parts


def _zip_split(tensors: Sequence[Tensor], size: int, axis: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, size, axis) for tensor in tensors), strict=True)


def _leading_and_other_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 values as sums of their 24 leading bits and the 29 others (Veltkamp)."""
    scaled = values * (2.0**29 + 1)
    leading = scaled - (scaled - values)
    return leading, values - leading


def _require_width(features: Tensor, width: int) -> None:
    if features.shape[2] != width:
        raise ValueError(f"rows of {features.shape[2]} features after rows of {width}")


def _require_all(seen: int, expected: int) -> None:
    if seen != expected:
        raise ValueError(f"{seen} rows of features for {expected} labels")


def _indicator(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return ones where a point is of a class and zeros, (n, K)."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)
