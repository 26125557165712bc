"""Statistics over seeds, networks and layers: confidence intervals, correlations, null distributions, rival laws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equisep.measures import fit_law

# Of the intervals over seeds.
CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Laws:
    """The AIC of three models of log D against layer l; lower is better (Akaike, 1974).

    exponential: log D = a + b l, the law. power: log D = a + b log(l + 1). constant: log D = a, no law.
    Least squares with normal errors; minus infinity for an exact fit. No small-sample correction: it does not change
    the choice between the two lines, and is undefined for the four points of a network of depth 4.
    """

    exponential: float
    power: float
    constant: float

    @property
    def best(self) -> str:
        """The name of the model with the lowest AIC."""
        return min(("constant", "power", "exponential"), key=lambda name: float(getattr(self, name)))

    @property
    def advantage(self) -> float:
        """AIC of the better rival minus that of the exponential; positive if the exponential describes D best."""
        rival = min(self.power, self.constant)
        return 0.0 if rival == self.exponential else rival - self.exponential


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its 95 % confidence interval; low and high are NaN for a single seed."""

    mean: float
    low: float
    high: float
    n: int


def compare_laws(fuzziness: ArrayLike) -> Laws:
    """Compare the law with a power law and with no law, on the separation fuzziness of consecutive layers.

    fuzziness and errors: as for :func:`fit_law`; also raises ValueError for fewer than three layers.
    """
    # Imported here because it takes a second, which other users of this module need not wait.
    from statsmodels.regression.linear_model import OLS

    fit_law(fuzziness)
    values = np.log(np.asarray(fuzziness, dtype=np.float64))
    _check_layers(len(values))
    layers, ones = np.arange(len(values)), np.ones(len(values))
    designs = (np.stack([ones, layers], 1), np.stack([ones, np.log1p(layers)], 1), ones[:, None])

    def score(design: NDArray[np.float64]) -> float:
        fit = OLS(values, design).fit()
        # Residuals below rounding error are not evidence.
        exact = fit.ssr <= len(values) * (1e-12 * np.abs(values).max()) ** 2
        return -math.inf if exact else float(fit.aic)

    return Laws(*map(score, designs))


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Return Spearman's rank correlation of two lists of equal length, −1 … 1.

    Pairs with a non-finite value are left out; NaN for fewer than three pairs or if one list is constant.
    """
    from scipy.stats import spearmanr

    pairs = np.stack([np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    if pairs.shape[1] < 3 or (np.ptp(pairs, axis=1) == 0).any():
        return math.nan
    return float(spearmanr(*pairs).statistic)


def partial_rank_correlation(one: ArrayLike, other: ArrayLike, controls: Sequence[ArrayLike]) -> float:
    """Return Spearman's partial rank correlation of two lists, controlling for further ones, −1 … 1.

    Pearson's correlation of the residuals of the two lists' ranks after least squares on the controls' ranks
    (Conover, Practical Nonparametric Statistics, 1999). Cases with a non-finite value are left out; NaN for fewer
    cases than the number of controls plus three, or if the controls determine one of the two lists.
    """
    from scipy.stats import rankdata

    cases = np.stack([np.asarray(values, dtype=np.float64) for values in (one, other, *controls)])
    cases = cases[:, np.isfinite(cases).all(axis=0)]
    if cases.shape[1] < len(controls) + 3:
        return math.nan
    ranks = rankdata(cases, axis=1)
    design = np.column_stack([np.ones(cases.shape[1]), *ranks[2:]])
    residuals = ranks[:2].T - design @ np.linalg.lstsq(design, ranks[:2].T, rcond=None)[0]
    if (np.ptp(residuals, axis=0) < 1e-9 * cases.shape[1]).any():
        return math.nan
    return float(np.corrcoef(residuals.T)[0, 1])


def _check_layers(layers: int) -> None:
    if layers < 3:
        raise ValueError(f"layers={layers}: must be at least 3, since any two points are on a line")


def broken_stick_correlations(layers: int, draws: int = 100_000, seed: int = 0) -> NDArray[np.float64]:
    """Return the distribution of r under the broken-stick null: (draws,) values, sorted.

    layers: L ≥ 3 points, including the input. The fall of log D is split among the L − 1 layers uniformly at random
    (normalised exponential variables; r does not depend on the size of the fall). The p-value of an observed r is the
    share of values that are at most r.
    """
    _check_layers(layers)
    falls = np.random.default_rng(seed).standard_exponential((draws, layers - 1))
    curves = np.concatenate([np.zeros((draws, 1)), -falls.cumsum(axis=1)], axis=1)
    curves -= curves.mean(axis=1, keepdims=True)
    centred = np.arange(layers) - (layers - 1) / 2
    return np.sort(curves @ centred / np.sqrt((curves**2).sum(axis=1) * (centred**2).sum()))


def independence_p_value(pearson_r: float, layers: int) -> float:
    """Return the one-sided p-value of r under independence: log D is normal and independent of the layer.

    Under this null r has a beta distribution on −1 … 1 with both parameters (L − 2) / 2 (Fisher, 1915). layers: L ≥ 3.
    """
    from scipy.stats import beta

    _check_layers(layers)
    half = (layers - 2) / 2
    return float(beta(half, half, loc=-1, scale=2).cdf(pearson_r))


def interval_over_seeds(values: ArrayLike) -> Interval:
    """Return the mean of one value per seed with its 95 % percentile bootstrap interval (Efron, 1979).

    values: (n,) n ≥ 1, in any order; a non-finite value makes the interval infinite. The resampling is seeded, so that
    equal values give equal intervals. With few seeds the interval is too narrow: for normal samples its coverage is
    85 % at n = 5, 75 % at n = 3 and 50 % at n = 2, where it is the range. One value has no interval: low and high are
    NaN. Raises ValueError for no values.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"values: must be one-dimensional with at least one value, got shape {sample.shape}")
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if not np.isfinite(sample).all():
        return Interval(mean, -math.inf, math.inf, len(sample))
    if sample[0] == sample[-1]:
        return Interval(mean, mean, mean, len(sample))
    # As scipy.stats.bootstrap, to the last bit; scipy.stats takes over a second to import, at the end of every sweep.
    drawn = np.random.default_rng(0).integers(0, len(sample), (RESAMPLES, len(sample)))
    means = np.sort(sample[drawn].mean(axis=-1))
    low, high = (1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2
    # Places of the two percentiles among the sorted means, counted from 1; between two means, interpolated.
    places = [share * RESAMPLES + (1 - share) for share in (low, high)]
    low, high = ((1 - place % 1) * means[int(place) - 1] + place % 1 * means[int(place)] for place in places)
    return Interval(mean, float(low), float(high), len(sample))


# The public name, equisep.interval.
interval = interval_over_seeds
