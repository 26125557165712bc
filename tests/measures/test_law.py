from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from equisep.measures import fit_law, normalized_auc


@given(st.floats(0.05, 0.95), st.floats(0.01, 1000.0), st.integers(3, 40))
def test_an_exact_law_is_recovered(ratio: float, first: float, layers: int) -> None:
    law = fit_law(first * ratio ** np.arange(layers))
    assert law.decay_ratio == pytest.approx(ratio, rel=1e-9)
    assert law.pearson_r == pytest.approx(-1.0, abs=1e-9)
    assert law.r_squared == pytest.approx(1.0, abs=1e-9)
    assert first * ratio**law.half_life == pytest.approx(first / 2, rel=1e-9)
    assert law.layer_ratios == pytest.approx([ratio] * (layers - 1), rel=1e-9)
    assert law.largest_residual < 1e-9


def test_a_noisy_law_agrees_with_the_textbook_formulas() -> None:
    log_fuzziness = np.array([3.6, 2.4, 1.5, 0.2])
    law = fit_law(np.exp(log_fuzziness))
    layers = np.arange(4)
    covariance = np.cov(layers, log_fuzziness)
    slope = covariance[0, 1] / covariance[0, 0]
    residuals = log_fuzziness - log_fuzziness.mean() - slope * (layers - 1.5)
    assert law.slope == pytest.approx(slope)
    assert law.pearson_r == pytest.approx(np.corrcoef(layers, log_fuzziness)[0, 1])
    assert law.slope_standard_error == pytest.approx(math.sqrt(residuals @ residuals / 2 / 5.0))


def test_r_agrees_with_the_released_code_at_depth_8() -> None:
    """D per layer and r as printed by the released code for Adam on Fashion-MNIST."""
    law = fit_law([36.81, 15.40, 9.09, 5.43, 3.28, 1.59, 0.762, 0.460])
    assert law.pearson_r == pytest.approx(-0.9978, abs=5e-5)


def test_the_half_life_is_infinite_without_decay() -> None:
    assert fit_law([1.0, 2.0, 4.0]).half_life == math.inf
    constant = fit_law([2.0, 2.0, 2.0])
    assert constant.decay_ratio == 1.0
    assert math.isnan(constant.pearson_r)


def test_two_layers_have_no_standard_error() -> None:
    assert math.isnan(fit_law([2.0, 1.0]).slope_standard_error)


@pytest.mark.parametrize(
    ("values", "pattern"),
    [([1.0], "at least two"), ([1.0, 0.0], "layer 1 is 0"), ([1.0, math.nan], "nan"), ([[1.0, 2.0]], "flat list")],
)
def test_invalid_input_raises_an_error(values: list, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        fit_law(values)


def test_residual_and_curvature_are_relative_to_the_fall() -> None:
    layers = np.arange(5)
    law = fit_law(np.exp(-2.0 * layers + 0.1 * layers**2))
    assert law.curvature == pytest.approx(0.1)
    assert law.fall == pytest.approx(-law.slope * 4)
    assert law.relative_curvature == pytest.approx(0.1 * 16 / 4 / law.fall)
    assert law.relative_residual == pytest.approx(law.largest_residual / law.fall)
    rising = fit_law([1.0, 2.0, 3.0])
    assert rising.relative_residual == rising.relative_curvature == math.inf
    assert math.isnan(rising.fall)


@given(st.floats(0.05, 0.95), st.integers(3, 20))
def test_log_ratio_cv_is_zero_for_equal_ratios_and_independent_of_scale(ratio: float, layers: int) -> None:
    assert fit_law(ratio ** np.arange(layers)).log_ratio_cv == pytest.approx(0, abs=1e-9)
    falls = np.resize([1.0, 3.0], layers * 2)
    for scale in (0.1, 1.0):
        law = fit_law(np.exp(-scale * np.concatenate([[0], np.cumsum(falls)])))
        assert law.log_ratio_cv == pytest.approx(0.5)
    assert fit_law([2.0, 1.0, 2.0]).log_ratio_cv == math.inf


def test_the_normalized_auc_of_a_curve() -> None:
    assert normalized_auc([0, 1, 3], [2, 2, 2]) == pytest.approx(2)
    assert normalized_auc([0, 1, 3], [1, 0, 0]) == pytest.approx(0.5 / 3)
    assert normalized_auc([3, 0, 1], [0, 1, 0]) == pytest.approx(0.5 / 3)
