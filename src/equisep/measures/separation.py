"""Separation fuzziness D = Tr(SS_w SS_b⁺) of labelled features, exact and without a p×p matrix.

SS_b has rank at most K−1, so that the trace needs only the K centred class means. With the thin SVD M = U S Vᵀ of the
K×p matrix with rows √w_k (x̄_k − x̄),

    D = Tr(SS_w V S⁻² Vᵀ) = Σ_k w_k / n_k Σ_i ‖S⁻¹ Vᵀ (x_ki − x̄_k)‖²,      w_k = n_k / n,

where singular values with S² ≤ p·ε·S²_max count as zero, as in ``scipy.linalg.pinv`` of SS_b. S and V come from
Mᵀ = Q R and the singular value decomposition of the K×K triangle R. This takes two passes over the rows, for class
means and projections, and O(pK) memory, on the device of the features.

Products over the points are in float64 (ε = 2⁻⁵²), or in float32 where that is asked for. In float64 class means lose
no digits to a common offset or a wide spread within classes, and the relative error of D is that of M's decomposition,
a few ε·√cond(SS_b). Of float32 features a large common centre is subtracted before the projection, and the rest of the
class means after it, which saves a fifth of the time and adds ε·(spread of class means) / (spread within classes).

Source: He & Su, "A Law of Data Separation in Deep Learning", PNAS 120(36), 2023, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equisep.measures.scatter import ClassSums, Weighting, WithinClassScatter, require_finite


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
    precision: of the products over points, float64 (a relative error below 1e-9) or float32, which takes half the time
        (about 1e-5 for an offset up to ten times the spread of the class means, without TF32).
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
    return separations_of(_scatter_of(features, classes, weighting, precision))


def separations_of(scatter: WithinClassScatter) -> tuple[Separation, ...]:
    """Return the separation per draw; raises NotFinite for NaN or infinite values, ValueError for missing rows."""
    fuzziness = scatter.fuzziness()
    require_finite(fuzziness)
    pairs = zip(fuzziness.tolist(), scatter.rank.tolist(), strict=True)
    return tuple(Separation(value, rank, len(scatter.point_weights)) for value, rank in pairs)


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
    return _scatter_of(features.detach(), labels, weighting, precision).fuzziness()


def _scatter_of(features: Tensor, classes: Tensor, weighting: Weighting, precision: torch.dtype) -> WithinClassScatter:
    """Return both passes over (n, p) or (draws, n, p) features."""
    sums = ClassSums(classes.long(), weighting, precision)
    sums.add(features)
    scatter = sums.scatter()
    scatter.add(features)
    return scatter


def as_feature_matrix(features: Any) -> Tensor:
    """Return features as a detached (n, p) tensor; raises ValueError for other shapes or complex numbers."""
    matrix = _as_tensor(features, "features")
    if matrix.layout != torch.strided or matrix.is_meta or matrix.is_quantized:
        raise ValueError(f"features must be a dense tensor with values, not {matrix.layout} on {matrix.device}")
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
