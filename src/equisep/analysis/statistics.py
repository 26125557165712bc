"""Statistics over seeds, settings and layers: confidence intervals, correlations, effects of layers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of all intervals.
CONFIDENCE = 0.95
PERMUTATIONS = 9999
# Correlations are kept this far from ±1, where Fisher's z is infinite.
MAX_CORRELATION = 1 - 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate from n values with its 95 % confidence interval; low and high are NaN for a single value.

    tail: the one-sided p-values of a bound, by bound: P(estimate this low or lower) and P(this high or higher) if the
    truth is the bound.
    """

    mean: float
    low: float
    high: float
    n: int
    tail: Callable[[float], tuple[float, float]] = field(
        default=lambda bound: (math.nan, math.nan), repr=False, compare=False
    )


def interval_over_seeds(values: ArrayLike, *, correlations: bool = False) -> Interval:
    """Return the mean of one value per seed with its 95 % interval by Student's t distribution.

    values: (n,) n ≥ 1; a non-finite value makes the interval infinite. correlations: whether the values are
    correlations such as r: mean and interval are then those of atanh r (Fisher's z), transformed back.
    Its coverage is exact for normal values, and with equal values it is a point. One value has no interval: low and
    high are NaN. Raises ValueError for no values.
    """
    # Faster to import than scipy.stats, at the end of every sweep.
    from scipy.special import stdtr, stdtrit

    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"values: must be one-dimensional with at least one value, got shape {sample.shape}")
    count = len(sample)
    if count > 1 and not np.isfinite(sample).all():
        return Interval(float(sample.mean()), -math.inf, math.inf, count)
    scaled = np.arctanh(np.clip(sample, -MAX_CORRELATION, MAX_CORRELATION)) if correlations else sample
    mean, back = float(scaled.mean()), math.tanh if correlations else float
    if count == 1:
        return Interval(float(sample[0]), math.nan, math.nan, 1)
    error = float(scaled.std(ddof=1)) / math.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error

    def tail(bound: float) -> tuple[float, float]:
        distance = mean - (math.atanh(np.clip(bound, -MAX_CORRELATION, MAX_CORRELATION)) if correlations else bound)
        if error == 0:
            return float(distance >= 0), float(distance <= 0)
        return float(stdtr(count - 1, distance / error)), float(stdtr(count - 1, -distance / error))

    return Interval(back(mean), back(mean - reach), back(mean + reach), count, tail)


def half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half of the 95 % interval of the mean over seeds, by Student's t. values: (seeds, cases), two seeds."""
    from scipy.special import stdtrit

    count = len(values)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return np.asarray(reach * values.std(axis=0, ddof=1) / math.sqrt(count))


# The public name, equisep.interval.
interval = interval_over_seeds


def share_interval(hits: int, trials: int) -> Interval:
    """Return a share with its 95 % interval by Clopper and Pearson (1934). trials: ≥ 1."""
    from scipy.stats import binom, binomtest

    found = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="exact")

    def tail(bound: float) -> tuple[float, float]:
        return float(binom.cdf(hits, trials, bound)), float(binom.sf(hits - 1, trials, bound))

    return Interval(hits / trials, float(found.low), float(found.high), trials, tail)


def correlation_interval(correlation: float, cases: int, controls: int = 0) -> Interval:
    """Return Spearman's (partial) rank correlation over settings with its 95 % interval by Fisher's z.

    cases: settings; each further control costs one. The variance of z is (1 + ρ²/2) / (n − 3) (Bonett & Wright, 2000).
    NaN and infinite limits for an undefined correlation or fewer than four cases.
    """
    from scipy.special import ndtr, ndtri

    effective = cases - controls
    if not math.isfinite(correlation) or effective < 4:
        return Interval(math.nan, -math.inf, math.inf, cases)
    bounded = float(np.clip(correlation, -MAX_CORRELATION, MAX_CORRELATION))
    z, error = math.atanh(bounded), math.sqrt((1 + bounded**2 / 2) / (effective - 3))
    reach = float(ndtri((1 + CONFIDENCE) / 2)) * error

    def tail(bound: float) -> tuple[float, float]:
        distance = (z - math.atanh(np.clip(bound, -MAX_CORRELATION, MAX_CORRELATION))) / error
        return float(ndtr(distance)), float(ndtr(-distance))

    return Interval(correlation, math.tanh(z - reach), math.tanh(z + reach), cases, tail)


def permutation_p_value(one: ArrayLike, other: ArrayLike, groups: ArrayLike, seed: int = 0) -> float:
    """Return the two-sided p-value of Spearman's correlation if ``one`` is permuted within groups, such as depths.

    Twice the smaller tail, since what differs between the groups stays and moves the distribution away from zero. Pairs
    with a non-finite value are left out; NaN where there is no correlation.
    """
    from scipy.stats import rankdata

    pairs = np.stack([np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)])
    usable = np.isfinite(pairs).all(axis=0)
    observed = rank_correlation(*pairs)
    if not math.isfinite(observed):
        return math.nan
    ranks, others = rankdata(pairs[:, usable], axis=1)
    of_group = np.asarray(groups)[usable]
    members = [np.flatnonzero(of_group == name) for name in np.unique(of_group)]
    ranks, others = ranks - ranks.mean(), others - others.mean()
    generator, statistic = np.random.default_rng(seed), ranks @ others
    lower = upper = 1
    for _ in range(PERMUTATIONS):
        permuted = ranks.copy()
        for rows in members:
            permuted[rows] = ranks[generator.permutation(rows)]
        product = permuted @ others
        lower += product <= statistic + 1e-9
        upper += product >= statistic - 1e-9
    return min(1.0, 2 * min(lower, upper) / (PERMUTATIONS + 1))


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
    # Residuals that rounding alone relates are not correlated.
    return round(float(np.corrcoef(residuals.T)[0, 1]), 12)


@dataclass(frozen=True)
class LayerEffects:
    """How unequal the layers' ratios are: log ρ_ls = μ + layer_l + seed_s + ε, over layers l and seeds s.

    mean: μ. layer_deviation: standard deviation of layer_l, without what noise adds to it (0 where noise explains it
    all). relative_deviation: that over |μ|, 0 for equal ratios. p_value: of the F test that all layer_l are zero.
    """

    mean: float
    layer_deviation: float
    relative_deviation: float
    p_value: float


def layer_effects(log_ratios: ArrayLike) -> LayerEffects:
    """Return the layers' systematic deviation from one ratio.

    log_ratios: (seeds, layers) of log ρ_l, finite, at least two of each. Two-way analysis of variance without
    repetition. Raises ValueError for fewer.
    """
    from scipy.stats import f

    values = np.asarray(log_ratios, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise ValueError(f"log_ratios: needs finite values of at least two seeds and two layers, got {values.shape}")
    seeds, layers = values.shape
    mean = float(values.mean())
    by_layer, by_seed = values.mean(axis=0) - mean, values.mean(axis=1) - mean
    residuals = values - mean - by_layer - by_seed[:, None]
    noise = float((residuals**2).sum()) / ((seeds - 1) * (layers - 1))
    between = seeds * float((by_layer**2).sum()) / (layers - 1)
    deviation = math.sqrt(max(0.0, (between - noise) / seeds))
    p_value = float(f(layers - 1, (seeds - 1) * (layers - 1)).sf(between / noise)) if noise > 0 else float(between == 0)
    return LayerEffects(mean, deviation, deviation / abs(mean) if mean else math.inf, p_value)


def rise_beyond_chosen_depth(fuzziness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rise of last-layer D from the best depth to the deepest network, chosen and tested on different seeds.

    fuzziness: (seeds, depths) of D of the last layer, ascending depths. The depth with the lowest median over one half
    of the seeds (every other one) is the best; (seeds,) rises, D of the deepest over that at the best depth, minus 1,
    are of the other half, both ways.
    """
    rises = np.empty(len(fuzziness))
    for half in (0, 1):
        chosen, tested = fuzziness[half::2], np.arange(1 - half, len(fuzziness), 2)
        best = int(np.argmin(np.median(chosen, axis=0)))
        rises[tested] = fuzziness[tested, -1] / fuzziness[tested, best] - 1
    return rises
