"""Statistics against textbook formulas, simulation and exact distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap

from equisep.analysis.statistics import (
    Interval,
    broken_stick_correlations,
    compare_laws,
    independence_p_value,
    interval_over_seeds,
    partial_rank_correlation,
    rank_correlation,
)


def test_the_interval_over_seeds_is_the_bootstrap_of_the_mean() -> None:
    interval = interval_over_seeds([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (interval.mean, interval.n) == (3.0, 5)
    assert 1.5 < interval.low < 2.0
    assert 4.0 < interval.high < 4.5
    assert interval_over_seeds([1.0, 2.0, 3.0, 4.0, 5.0]) == interval


def test_the_interval_is_nan_for_one_seed_a_point_for_equal_seeds_and_infinite_for_infinite_values() -> None:
    assert math.isnan(interval_over_seeds([2.0]).low)
    assert interval_over_seeds([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 2)
    for value in (math.inf, math.nan):
        interval = interval_over_seeds([1.0, value])
        assert (interval.low, interval.high) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one value"):
        interval_over_seeds([])


def test_each_kind_of_law_is_identified() -> None:
    layers = np.arange(8)
    noise = np.exp(0.05 * np.array([1, -1, -1, 1, 1, -1, -1, 1]))
    assert compare_laws(10 * 0.5**layers * noise).best == "exponential"
    assert compare_laws(10 / (1 + layers) ** 2 * noise).best == "power"
    assert compare_laws(10 * noise).best == "constant"
    assert compare_laws(10 * 0.5**layers * noise).advantage > 2
    assert compare_laws(10 * noise).advantage < 0
    assert compare_laws(10 * 0.5**layers).advantage == math.inf
    with pytest.raises(ValueError, match="D of layer 1 is 0.0"):
        compare_laws([1.0, 0.0])


def test_aic_agrees_with_the_textbook_formula() -> None:
    log_fuzziness = np.array([3.6, 2.4, 1.5, 0.2, 0.1])
    residuals = log_fuzziness - log_fuzziness.mean()
    variance = residuals @ residuals / 5
    likelihood = -5 / 2 * (math.log(2 * math.pi * variance) + 1)
    assert compare_laws(np.exp(log_fuzziness)).constant == pytest.approx(2 * 1 - 2 * likelihood)


def test_rank_correlation_depends_on_order_and_skips_nan() -> None:
    assert rank_correlation([1, 2, 3, math.nan], [1, 10, 100, 0]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 1, 2]) == pytest.approx(-0.8)
    assert math.isnan(rank_correlation([1, 2], [1, 2]))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 40))
def test_partial_rank_correlation_agrees_with_the_textbook_formula(seed: int, cases: int) -> None:
    """Partial correlation of ranks from the three plain ones (Conover, 1999)."""
    one, other, third = np.random.default_rng(seed).normal(size=(3, cases))
    other = other + third
    plain, with_one, with_other = (rank_correlation(*pair) for pair in ((one, other), (one, third), (other, third)))
    if max(abs(with_one), abs(with_other)) > 0.999:
        return
    expected = (plain - with_one * with_other) / math.sqrt((1 - with_one**2) * (1 - with_other**2))
    assert partial_rank_correlation(one, other, [third]) == pytest.approx(expected, abs=1e-9)
    assert partial_rank_correlation(one, other, []) == pytest.approx(plain)


def test_partial_rank_correlation_removes_the_effect_of_a_third_variable() -> None:
    random = np.random.default_rng(0)
    depth = np.repeat([4, 8, 20], 200)
    one, other = depth + random.normal(size=(2, 600))
    assert rank_correlation(one, other) > 0.8
    assert abs(partial_rank_correlation(one, other, [depth])) < 0.1
    assert math.isnan(partial_rank_correlation(depth, other, [depth]))
    assert math.isnan(partial_rank_correlation(one[:3], other[:3], [depth[:3]]))
    with_nan = np.append(one, math.nan)
    assert partial_rank_correlation(with_nan, np.append(other, 0), [np.append(depth, 4)]) == pytest.approx(
        partial_rank_correlation(one, other, [depth])
    )


def test_broken_stick_correlations_of_three_layers_have_the_exact_distribution() -> None:
    """Two falls u and 1 − u: r = −1 / √(2 (u² + 1 − (1 + u)²/3)), for u uniform on 0 … 1."""
    share = (np.arange(100_000) + 0.5) / 100_000
    expected = np.sort(-1 / np.sqrt(2 * (share**2 + 1 - (1 + share) ** 2 / 3)))
    simulated = broken_stick_correlations(3)
    assert (
        np.abs(np.quantile(simulated, np.linspace(0, 1, 21)) - np.quantile(expected, np.linspace(0, 1, 21))).max()
        < 2e-3
    )


def test_broken_stick_correlations_approach_minus_one_with_depth() -> None:
    """Independent decreases add up to a line: deep networks have a high correlation without equal ratios."""
    medians = [np.median(broken_stick_correlations(layers)) for layers in (4, 8, 20)]
    assert -0.97 < medians[0] < -0.94
    assert medians[0] > medians[1] > medians[2] > -0.99
    with pytest.raises(ValueError, match="at least 3"):
        broken_stick_correlations(2)


def test_the_independence_p_value_agrees_with_simulation() -> None:
    values = np.random.default_rng(0).normal(size=(100_000, 4))
    centred = values - values.mean(axis=1, keepdims=True)
    r = centred @ (np.arange(4) - 1.5) / np.sqrt((centred**2).sum(axis=1) * 5)
    for threshold in (-0.97, -0.5, 0.5):
        assert independence_p_value(threshold, 4) == pytest.approx((r <= threshold).mean(), abs=5e-3)
    assert independence_p_value(-0.97, 20) < 1e-9
    with pytest.raises(ValueError, match="at least 3"):
        independence_p_value(-0.9, 2)


@pytest.mark.parametrize("count", [3, 5, 16])
def test_the_interval_over_seeds_is_scipys_percentile_bootstrap(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    found = bootstrap((np.sort(values),), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(0))
    interval = interval_over_seeds(values)
    assert (interval.low, interval.high) == tuple(found.confidence_interval)
