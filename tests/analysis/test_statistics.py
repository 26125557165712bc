"""Statistics against textbook formulas, simulation and exact distributions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from equisep.analysis.nulls import (
    block_excesses,
    broken_stick_correlations,
    broken_stick_variations,
    independence_p_value,
)
from equisep.analysis.rival_laws import compare_increment_laws, compare_laws
from equisep.analysis.statistics import (
    Interval,
    correlation_interval,
    interval_over_seeds,
    layer_effects,
    partial_rank_correlation,
    permutation_p_value,
    rank_correlation,
    rise_beyond_chosen_depth,
    share_interval,
)
from equisep.measures import fit_law


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_the_interval_over_seeds_is_that_of_students_t(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    interval, found = interval_over_seeds(values), stats.ttest_1samp(values, 0.3)
    limits = found.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high), rel=1e-12)
    below, above = interval.tail(0.3)
    assert min(below, above) * 2 == pytest.approx(found.pvalue, rel=1e-9)
    assert below + above == pytest.approx(1)


def test_intervals_of_correlations_are_those_of_fishers_z() -> None:
    r = np.array([-0.99, -0.999, -0.98, -0.995])
    interval, plain = interval_over_seeds(r, correlations=True), interval_over_seeds(np.arctanh(r))
    assert (interval.mean, interval.low, interval.high) == pytest.approx(np.tanh((plain.mean, plain.low, plain.high)))
    assert interval.tail(-0.97) == pytest.approx(plain.tail(np.arctanh(-0.97)))
    assert interval_over_seeds([-1.0, -1.0, -1.0], correlations=True).high == pytest.approx(-1)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_intervals_cover(count: int) -> None:
    """95 % of the intervals of normal samples, and of correlations of uneven spread, include the truth."""
    samples = np.random.default_rng(0).normal(size=(2000, count))
    covered = [interval.low <= 0 <= interval.high for interval in map(interval_over_seeds, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    correlations = np.tanh(-2.5 + 0.4 * samples)
    intervals = [interval_over_seeds(sample, correlations=True) for sample in correlations]
    assert np.mean([one.low <= math.tanh(-2.5) <= one.high for one in intervals]) == pytest.approx(0.95, abs=0.015)


def test_a_share_has_the_interval_of_clopper_and_pearson() -> None:
    """No hit in six trials is the least that excludes one half."""
    assert share_interval(0, 6).high == pytest.approx(1 - 0.025 ** (1 / 6))
    assert share_interval(0, 5).high > 0.5 > share_interval(0, 6).high
    assert share_interval(8, 8).low > 0.5
    assert share_interval(8, 8).tail(0.5)[1] == pytest.approx(2**-8)
    assert share_interval(0, 6).tail(0.5)[0] == pytest.approx(2**-6)


def test_intervals_of_rank_correlations_cover() -> None:
    generator = np.random.default_rng(1)
    covered = []
    truth = 6 / math.pi * math.asin(0.6 / 2)
    for _ in range(1500):
        one = generator.normal(size=25)
        other = 0.6 * one + 0.8 * generator.normal(size=25)
        interval = correlation_interval(rank_correlation(one, other), 25)
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    for undefined in (correlation_interval(math.nan, 20), correlation_interval(0.5, 5, controls=2)):
        assert (undefined.low, undefined.high) == (-math.inf, math.inf)


def test_permutation_within_groups_keeps_what_differs_between_them() -> None:
    """Values that go together only because both depend on the group are not significant."""
    generator = np.random.default_rng(2)
    groups = np.repeat([0, 10, 20], 8)
    one, other = groups + generator.normal(size=24), groups + generator.normal(size=24)
    assert rank_correlation(one, other) > 0.8
    assert permutation_p_value(one, other, groups) > 0.05
    assert permutation_p_value(one, other, np.zeros(24)) < 0.001
    # Within the groups they go together perfectly, against the difference between them.
    against = np.tile(np.arange(8), 3) - 3 * groups
    assert rank_correlation(groups + np.tile(np.arange(8), 3), against) < 0
    assert permutation_p_value(groups + np.tile(np.arange(8), 3), against, groups) < 0.001
    assert math.isnan(permutation_p_value(np.ones(5), np.arange(5), np.zeros(5)))
    # A pair without a value changes nothing.
    with_gap = permutation_p_value([*one, math.nan], [*other, 0.0], [*groups, 0])
    assert with_gap == permutation_p_value(one, other, groups)


def test_layer_effects_are_those_of_two_way_analysis_of_variance() -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    generator = np.random.default_rng(3)
    layers, seeds = np.array([0.3, -0.2, -0.1]), generator.normal(size=5)
    values = -0.5 + layers + 0.1 * seeds[:, None] + 0.05 * generator.normal(size=(5, 3))
    effects = layer_effects(values)
    table = pd.DataFrame({"y": values.ravel(), "layer": np.tile(range(3), 5), "seed": np.repeat(range(5), 3)})
    expected = anova_lm(ols("y ~ C(layer) + C(seed)", table).fit())
    assert effects.p_value == pytest.approx(expected.loc["C(layer)", "PR(>F)"], rel=1e-9)
    assert effects.layer_deviation == pytest.approx(layers.std(ddof=1), rel=0.3)
    assert effects.relative_deviation == pytest.approx(effects.layer_deviation / abs(values.mean()))
    equal = layer_effects(-0.5 + 0.1 * generator.normal(size=(40, 3)))
    assert equal.p_value > 0.01
    assert equal.relative_deviation < 0.1
    with pytest.raises(ValueError, match="at least two seeds"):
        layer_effects([[1.0, 2.0]])


def test_the_best_depth_is_chosen_on_other_seeds_than_its_rise_is_tested_on() -> None:
    """With equal depths the rise has mean zero, although the lowest of each half is chosen."""
    generator = np.random.default_rng(4)
    rises = [rise_beyond_chosen_depth(np.exp(0.2 * generator.normal(size=(6, 8)))).mean() for _ in range(400)]
    # E[exp(X − Y)] − 1 for the ratio of two lognormal values.
    assert np.mean(rises) == pytest.approx(math.exp(0.2**2) - 1, abs=0.02)
    fixed = np.tile([3.0, 1.0, 2.0], (4, 1))
    assert rise_beyond_chosen_depth(fixed).tolist() == [1.0] * 4


def test_increments_tell_the_law_from_its_rivals() -> None:
    layers = np.arange(20)
    noise = np.exp(0.02 * np.random.default_rng(5).normal(size=20).cumsum())
    exact = compare_increment_laws(30 * 0.8**layers * noise)
    assert exact.exponential < min(exact.quadratic, exact.floor)
    floor = compare_increment_laws((30 * 0.7**layers + 0.5) * noise)
    assert floor.floor < min(floor.exponential, floor.quadratic) - 2
    bent = compare_increment_laws(30 * np.exp(-0.02 * layers - 0.02 * layers**2) * noise)
    assert bent.quadratic < min(bent.exponential, bent.floor) - 2
    with pytest.raises(ValueError, match="7 points: at least 8"):
        compare_increment_laws(0.5 ** np.arange(7))


def test_null_distributions_are_those_of_the_laws_statistics() -> None:
    generator = np.random.default_rng(6)
    curves = np.exp(
        -np.concatenate([np.zeros((4000, 1)), generator.exponential(size=(4000, 8)).cumsum(axis=1)], axis=1)
    )
    laws = [fit_law(curve) for curve in curves]
    blocks = [fit_law(curve[::2]) for curve in curves]
    for values, null in (
        ([law.pearson_r for law in laws], broken_stick_correlations(9)),
        ([law.log_ratio_cv for law in laws], broken_stick_variations(9)),
        ([a.relative_residual - b.relative_residual for a, b in zip(laws, blocks, strict=True)], block_excesses(8, 2)),
    ):
        assert stats.ks_2samp(values, null).pvalue > 0.001


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
