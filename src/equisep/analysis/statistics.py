"""Statistics over seeds, networks and layers: intervals, correlations, null distributions, rival laws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equisep.measures import fit_law


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


def broken_stick_correlations(layers: int, draws: int = 100_000, seed: int = 0) -> NDArray[np.float64]:
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


def independence_p_value(pearson_r: float, layers: int) -> float:
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
