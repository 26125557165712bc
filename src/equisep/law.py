"""The law of equi-separation: D per layer in, decay ratio and goodness of fit out. Arrays and numbers only.

D_l ≈ ρ^l D_0: log D is linear in the layer index l, ρ = exp(slope) is the decay ratio
(He & Su, PNAS 2023, equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    def ratio_inequality(self) -> float:
        """How unequal the layers' ratios are: standard deviation of log ρ_l over the size of its mean; 0: equal.

        Dimensionless, and the same for networks of any depth whose ratios are as unlike. Infinite where the product of
        the ratios is 1. The paper's argument for robustness is about it: at a given product, equal ratios are best.
        """
        logs = np.log(self.layer_ratios)
        rounding = 1e-12 * np.abs(logs).max()
        return float(logs.std() / abs(logs.mean())) if abs(logs.mean()) > rounding else math.inf


@dataclass(frozen=True)
class Laws:
    """Three descriptions of log D against layer l by their AIC, the lower the better (Akaike, 1974).

    exponential: log D = a + b l, the law. power: log D = a + b log(l + 1). constant: log D = a, no law.
    Least squares with normal errors; minus infinity for an exact fit. Not corrected for few layers: the correction does
    not touch the choice between the two lines, and does not exist for the four points of a network of depth 4.
    """

    exponential: float
    power: float
    constant: float

    @property
    def best(self) -> str:
        """The name of the one with the lowest AIC."""
        return min(("constant", "power", "exponential"), key=lambda name: float(getattr(self, name)))

    @property
    def advantage(self) -> float:
        """AIC of the better rival less that of the exponential; above 0 the exponential describes D best."""
        rival = min(self.power, self.constant)
        return 0.0 if rival == self.exponential else rival - self.exponential


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval; low and high are NaN for a single seed. n: number of seeds."""

    mean: float
    low: float
    high: float
    n: int


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


def compare_laws(fuzziness: ArrayLike) -> Laws:
    """Compare the law with a power law and with no law, on the separation fuzziness of consecutive layers.

    fuzziness, and what is raised: as :func:`fit_law`; also ValueError for fewer than three layers, through which any
    line goes.
    """
    # Imported here: a run fits its law without it, and so starts a second sooner.
    from statsmodels.regression.linear_model import OLS

    fit_law(fuzziness)
    if len(np.asarray(fuzziness)) < 3:
        raise ValueError("laws are told apart by three layers or more")
    values = np.log(np.asarray(fuzziness, dtype=np.float64))
    layers, ones = np.arange(len(values)), np.ones(len(values))
    designs = (np.stack([ones, layers], 1), np.stack([ones, np.log1p(layers)], 1), ones[:, None])

    def score(design: NDArray[np.float64]) -> float:
        fit = OLS(values, design).fit()
        # Below rounding, residuals are not evidence.
        exact = fit.ssr <= len(values) * (1e-12 * np.abs(values).max()) ** 2
        return -math.inf if exact else float(fit.aic)

    return Laws(*map(score, designs))


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Return Spearman's rank correlation of two lists of equal length, −1 … 1; NaN below three pairs or where one is
    constant. Pairs of which one is not finite are left out.
    """
    from scipy.stats import spearmanr

    pairs = np.stack([np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    if pairs.shape[1] < 3 or (np.ptp(pairs, axis=1) == 0).any():
        return math.nan
    return float(spearmanr(*pairs).statistic)


def partial_rank_correlation(one: ArrayLike, other: ArrayLike, controls: Sequence[ArrayLike]) -> float:
    """Return Spearman's correlation of two lists with further ones held fixed, −1 … 1.

    Pearson's correlation of what is left of the ranks of the two after least squares on the ranks of the controls
    (Conover, Practical Nonparametric Statistics, 1999). Cases of which one value is not finite are left out; NaN for
    fewer cases than controls and three more, or where the controls tell one of the two whole.
    """
    from scipy.stats import rankdata

    cases = np.stack([np.asarray(values, dtype=np.float64) for values in (one, other, *controls)])
    cases = cases[:, np.isfinite(cases).all(axis=0)]
    if cases.shape[1] < len(controls) + 3:
        return math.nan
    ranks = rankdata(cases, axis=1)
    known = np.column_stack([np.ones(cases.shape[1]), *ranks[2:]])
    left = ranks[:2].T - known @ np.linalg.lstsq(known, ranks[:2].T, rcond=None)[0]
    if (np.ptp(left, axis=0) < 1e-9 * cases.shape[1]).any():
        return math.nan
    return float(np.corrcoef(left.T)[0, 1])


def mean_height(places: ArrayLike, values: ArrayLike) -> float:
    """Return the area under a curve over the length it spans, by trapezoids.

    places: (n,) n ≥ 2, each once, in any order; values: (n,).
    """
    from scipy.integrate import trapezoid

    x = np.asarray(places, dtype=np.float64)
    order = np.argsort(x)
    return float(trapezoid(np.asarray(values, dtype=np.float64)[order], x[order]) / np.ptp(x))


def chance_correlations(layers: int, draws: int = 100_000, seed: int = 0) -> NDArray[np.float64]:
    """Return r of layer and log D of networks that separate better layer by layer, and otherwise at random.

    layers: L ≥ 3 points, the input among them. The fall of log D is split among the L − 1 layers uniformly at random
    (a broken stick: exponential falls, normalised), which r does not depend on the size of; (draws,) values, sorted.
    How often so much correlation comes without equal ratios is the share of them below the r in question.
    """
    if layers < 3:
        raise ValueError(f"layers={layers}: through two layers any line goes, give at least 3")
    falls = np.random.default_rng(seed).standard_exponential((draws, layers - 1))
    curves = np.concatenate([np.zeros((draws, 1)), -falls.cumsum(axis=1)], axis=1)
    curves -= curves.mean(axis=1, keepdims=True)
    places = np.arange(layers) - (layers - 1) / 2
    return np.sort(curves @ places / np.sqrt((curves**2).sum(axis=1) * (places**2).sum()))


def chance_without_direction(pearson_r: float, layers: int) -> float:
    """Return how often r is as low where log D has nothing to do with the layer: independent, normal values.

    r then has a beta distribution on −1 … 1 with both parameters (L − 2) / 2 (Fisher, 1915). layers: L ≥ 3.
    """
    from scipy.stats import beta

    if layers < 3:
        raise ValueError(f"layers={layers}: through two layers any line goes, give at least 3")
    half = (layers - 2) / 2
    return float(beta(half, half, loc=-1, scale=2).cdf(pearson_r))


def interval_over_seeds(values: ArrayLike) -> Interval:
    """Return the mean of one value a seed with its 95 % percentile bootstrap interval (Efron, 1979).

    values: (n,) n ≥ 1, in any order; one that is not finite makes the interval infinite. The resampling is seeded,
    so that equal values give equal intervals. With few seeds it is narrow: of normal samples it covers the mean
    85 times in 100 at n = 5, 75 at n = 3.
    """
    from scipy.stats import bootstrap

    sample = np.sort(np.asarray(values, dtype=np.float64))
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"an interval needs a flat list of at least one value, got shape {sample.shape}")
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if not np.isfinite(sample).all():
        return Interval(mean, -math.inf, math.inf, len(sample))
    if sample[0] == sample[-1]:
        return Interval(mean, mean, mean, len(sample))
    random = np.random.default_rng(0)
    result = bootstrap((sample,), np.mean, n_resamples=9999, method="percentile", rng=random)
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high), len(sample))
