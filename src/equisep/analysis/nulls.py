"""Null distributions of the law's statistics: what a fall of log D without equal ratios gives by chance."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

DRAWS = 100_000


def broken_sticks(layers: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return log D of each of L layers under the broken-stick null, (draws, L), with a total fall of about L − 1.

    layers: L ≥ 3 points, including the input. The fall of log D is split among the L − 1 layers uniformly at random
    (normalised exponential variables; the law's statistics do not depend on the size of the fall).
    """
    if layers < 3:
        raise ValueError(f"layers={layers}: must be at least 3, since any two points are on a line")
    falls = np.random.default_rng(seed).standard_exponential((draws, layers - 1))
    return np.concatenate([np.zeros((draws, 1)), -falls.cumsum(axis=1)], axis=1)


@cache
def broken_stick_correlations(layers: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return the distribution of r under the broken-stick null: (draws,) values, sorted.

    The p-value of an observed r is the share of values that are at most r.
    """
    curves = broken_sticks(layers, draws, seed)
    curves = curves - curves.mean(axis=1, keepdims=True)
    centred = np.arange(layers) - (layers - 1) / 2
    return np.sort(curves @ centred / np.sqrt((curves**2).sum(axis=1) * (centred**2).sum()))


@cache
def broken_stick_variations(layers: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return the distribution of log_ratio_cv, the coefficient of variation of log ρ_l: (draws,) values, sorted."""
    falls = -np.diff(broken_sticks(layers, draws, seed), axis=1)
    return np.sort(falls.std(axis=1) / falls.mean(axis=1))


@cache
def block_excesses(layers: int, per_block: int, draws: int = DRAWS // 10, seed: int = 0) -> NDArray[np.float64]:
    """Return the distribution of the excess of relative_residual per layer over that per block: (draws,), sorted.

    layers: of the network, besides the input; blocks of ``per_block`` layers. Under the null layers within blocks are
    like any others: the fall of log D is split among all layers at random, and a block is what its layers add up to.
    """
    curves = broken_sticks(layers + 1, draws, seed)
    return np.sort(_relative_residuals(curves) - _relative_residuals(curves[:, ::per_block]))


def _relative_residuals(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest residual of a line over its fall, for each row of log D; see :class:`equisep.Law`."""
    points = curves.shape[1]
    centred = np.arange(points) - (points - 1) / 2
    slopes = curves @ centred / (centred @ centred)
    residuals = curves - curves.mean(axis=1, keepdims=True) - slopes[:, None] * centred
    largest: NDArray[np.float64] = np.abs(residuals).max(axis=1)
    relative: NDArray[np.float64] = largest / (-slopes * (points - 1))
    return relative


def independence_p_value(pearson_r: float, layers: int) -> float:
    """Return the one-sided p-value of r under independence: log D is normal and independent of the layer.

    Under this null r has a beta distribution on −1 … 1 with both parameters (L − 2) / 2 (Fisher, 1915). layers: L ≥ 3.
    """
    from scipy.stats import beta

    if layers < 3:
        raise ValueError(f"layers={layers}: must be at least 3, since any two points are on a line")
    half = (layers - 2) / 2
    return float(beta(half, half, loc=-1, scale=2).cdf(pearson_r))
