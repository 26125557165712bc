"""The law of equi-separation: D per layer in, decay ratio and goodness of fit out. Arrays and numbers only.

D_l ≈ ρ^l D_0: log D is linear in the layer index l, ρ = exp(slope) is the decay ratio
(He & Su, PNAS 2023, equation 2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Law:
    """The least-squares line through (l, log D_l), l = 0 … L−1.

    decay_ratio: ρ = exp(slope), dimensionless; the law holds for 0 < ρ < 1.
    pearson_r: correlation of l and log D_l, the paper's measure of the law (−1: exact); NaN if D is constant.
    r_squared: r².
    half_life: ln 2 / ln(1/ρ), in layers; infinite where ρ ≥ 1.
    layer_ratios: ρ_l = D_l / D_{l−1}, l = 1 … L−1.
    slope, intercept: of log D, natural logarithm, per layer.
    slope_standard_error: of the slope; NaN for two layers, which leave no degree of freedom.
    largest_residual: max |log D_l − fitted|, natural logarithm.
    curvature: coefficient of l² when a quadratic is fitted instead, per layer²; NaN below four layers.
    """

    decay_ratio: float
    pearson_r: float
    r_squared: float
    half_life: float
    layer_ratios: tuple[float, ...]
    slope: float
    intercept: float
    slope_standard_error: float
    largest_residual: float
    curvature: float

    @property
    def fall(self) -> float:
        """How far the line comes down from the first layer to the last, natural logarithm; NaN where it does not."""
        return -self.slope * len(self.layer_ratios) if self.slope < 0 else math.nan

    @property
    def relative_residual(self) -> float:
        """The largest residual over the line's fall, dimensionless; infinite where the line does not fall."""
        return self.largest_residual / self.fall if self.slope < 0 else math.inf

    @property
    def relative_curvature(self) -> float:
        """The sagitta |curvature| (L−1)² / 4 of the fitted parabola over the line's fall; infinite as above."""
        sagitta = abs(self.curvature) * len(self.layer_ratios) ** 2 / 4
        return sagitta / self.fall if self.slope < 0 else math.inf

    @property
    def log_ratio_cv(self) -> float:
        """How unequal the layers' ratios are: standard deviation of log ρ_l over the size of its mean; 0: equal.

        Dimensionless, and the same for networks of any depth whose ratios are as unlike. Infinite where the product of
        the ratios is 1. The paper's argument for robustness is about it: at a given product, equal ratios are best.
        """
        logs = np.log(self.layer_ratios)
        rounding = 1e-12 * np.abs(logs).max()
        return float(logs.std() / abs(logs.mean())) if abs(logs.mean()) > rounding else math.inf


def fit_law(fuzziness: ArrayLike) -> Law:
    """Fit the law to the separation fuzziness of consecutive layers, the input layer first.

    fuzziness: (L,) D of layer 0 … L−1, L ≥ 2, positive and finite.
    Raises ValueError for fewer than two layers or a D that has no logarithm.
    """
    values = np.asarray(fuzziness, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"the law needs D of at least two layers as a flat list, got shape {values.shape}")
    unusable = ~(np.isfinite(values) & (values > 0))
    if unusable.any():
        layer = int(np.argmax(unusable))
        raise ValueError(f"D of layer {layer} is {values[layer]}: log D needs positive, finite values")
    layers = np.arange(len(values), dtype=np.float64)
    log_fuzziness = np.log(values)
    slope, intercept = np.polyfit(layers, log_fuzziness, 1)
    residuals = log_fuzziness - (intercept + slope * layers)
    spread = np.ptp(log_fuzziness)
    r = float(np.corrcoef(layers, log_fuzziness)[0, 1]) if spread > 0 else math.nan
    slope = float(slope) if spread > 0 else 0.0
    freedom = len(values) - 2
    variance = residuals @ residuals / freedom if freedom else math.nan
    return Law(
        decay_ratio=math.exp(slope),
        pearson_r=r,
        r_squared=r**2,
        half_life=math.log(2) / -slope if slope < 0 else math.inf,
        layer_ratios=tuple((values[1:] / values[:-1]).tolist()),
        slope=slope,
        intercept=float(intercept),
        slope_standard_error=math.sqrt(variance / np.sum((layers - layers.mean()) ** 2)),
        largest_residual=float(np.abs(residuals).max()),
        curvature=float(np.polyfit(layers, log_fuzziness, 2)[0]) if len(values) > 3 else math.nan,
    )


def normalized_auc(places: ArrayLike, values: ArrayLike) -> float:
    """Return the area under a curve over the length it spans, by trapezoids.

    places: (n,) n ≥ 2, each once, in any order; values: (n,).
    """
    x = np.asarray(places, dtype=np.float64)
    order = np.argsort(x)
    return float(np.trapezoid(np.asarray(values, dtype=np.float64)[order], x[order]) / np.ptp(x))
