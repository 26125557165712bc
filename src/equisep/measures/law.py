"""The law of equi-separation: from D per layer to decay ratio and goodness of fit. Arrays and numbers only.

D_l ≈ ρ^l D_0: log D is linear in the layer index l, and ρ = exp(slope) is the decay ratio (He & Su, PNAS 2023,
equation 2).
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
    slope_standard_error: of the slope; NaN for two layers (no degree of freedom).
    largest_residual: max |log D_l − fitted|, natural logarithm.
    curvature: coefficient of l² in a quadratic fit, per layer²; NaN below four layers.
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
        """Decrease of the line from the first layer to the last, natural logarithm; NaN where it does not fall."""
        return -self.slope * len(self.layer_ratios) if self.slope < 0 else math.nan

    @property
    def relative_residual(self) -> float:
        """Largest residual divided by the fall, dimensionless; infinite where the line does not fall."""
        return self.largest_residual / self.fall if self.slope < 0 else math.inf

    @property
    def relative_curvature(self) -> float:
        """Sagitta |curvature| (L−1)² / 4 of the fitted parabola divided by the fall; infinite as above."""
        sagitta = abs(self.curvature) * len(self.layer_ratios) ** 2 / 4
        return sagitta / self.fall if self.slope < 0 else math.inf

    @property
    def log_ratio_cv(self) -> float:
        """Coefficient of variation of log ρ_l: standard deviation over |mean|, dimensionless; 0 for equal ratios.

        Comparable across depths; infinite where the product of the ratios is 1. It tests the paper's argument for
        robustness that equal ratios are optimal for a given product.
        """
        logs = np.log(self.layer_ratios)
        rounding = 1e-12 * np.abs(logs).max()
        return float(logs.std() / abs(logs.mean())) if abs(logs.mean()) > rounding else math.inf


def fit_law(fuzziness: ArrayLike) -> Law:
    """Fit the law to the separation fuzziness of consecutive layers, starting with the input.

    fuzziness: (L,) D of layers 0 … L−1, L ≥ 2, positive and finite. Raises ValueError otherwise.
    """
    values = np.asarray(fuzziness, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"the law needs D of at least two layers as a flat list, not shape {values.shape}")
    invalid = ~(np.isfinite(values) & (values > 0))
    if invalid.any():
        layer = int(np.argmax(invalid))
        raise ValueError(f"D of layer {layer} is {values[layer]}: log D needs positive, finite values")
    log_fuzziness = np.log(values)
    # Polynomials of degree 1 and 2 that are orthogonal to each other and to constants: each coefficient by itself.
    linear = np.arange(len(values)) - (len(values) - 1) / 2
    spread = linear @ linear
    quadratic = linear**2 - spread / len(values)
    mean = log_fuzziness.mean()
    varies = np.ptp(log_fuzziness) > 0
    slope = float(linear @ log_fuzziness / spread) if varies else 0.0
    residuals = log_fuzziness - mean - slope * linear
    deviation = np.linalg.norm(log_fuzziness - mean)
    r = float(np.clip(slope * math.sqrt(spread) / deviation, -1.0, 1.0)) if varies else math.nan
    freedom = len(values) - 2
    variance = residuals @ residuals / freedom if freedom else math.nan
    return Law(
        decay_ratio=math.exp(slope),
        pearson_r=r,
        r_squared=r**2,
        half_life=math.log(2) / -slope if slope < 0 else math.inf,
        layer_ratios=tuple((values[1:] / values[:-1]).tolist()),
        slope=slope,
        intercept=float(mean + slope * linear[0]),
        slope_standard_error=math.sqrt(variance / spread),
        largest_residual=float(np.abs(residuals).max()),
        curvature=float(quadratic @ log_fuzziness / (quadratic @ quadratic)) if len(values) > 3 else math.nan,
    )


def normalized_auc(x: ArrayLike, y: ArrayLike) -> float:
    """Return the area under a curve divided by its range of x, by the trapezoidal rule.

    x: (n,), n ≥ 2, distinct, in any order; y: (n,).
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(x)
    return float(np.trapezoid(y[order], x[order]) / np.ptp(x))
