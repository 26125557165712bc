"""The law of equi-separation against other descriptions of D through the layers of one network."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equisep.measures import fit_law

# Points from which curves of three parameters are fitted to the increments of log D.
MIN_POINTS = 8


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


def compare_laws(fuzziness: ArrayLike) -> Laws:
    """Compare the law with a power law and with no law, on the separation fuzziness of consecutive layers.

    fuzziness and errors: as for :func:`fit_law`; also raises ValueError for fewer than three layers.
    """
    # Imported here because it takes a second, which other users of this module need not wait.
    from statsmodels.regression.linear_model import OLS

    fit_law(fuzziness)
    values = np.log(np.asarray(fuzziness, dtype=np.float64))
    if len(values) < 3:
        raise ValueError(f"layers={len(values)}: must be at least 3, since any two points are on a line")
    layers, ones = np.arange(len(values)), np.ones(len(values))
    designs = (np.stack([ones, layers], 1), np.stack([ones, np.log1p(layers)], 1), ones[:, None])

    def score(design: NDArray[np.float64]) -> float:
        fit = OLS(values, design).fit()
        # Residuals below rounding error are not evidence.
        exact = fit.ssr <= len(values) * (1e-12 * np.abs(values).max()) ** 2
        return -math.inf if exact else float(fit.aic)

    return Laws(*map(score, designs))


@dataclass(frozen=True)
class IncrementLaws:
    """The corrected AIC (Hurvich & Tsai, 1989) of three models of the increments of log D; lower is better.

    Increments: log D_l − log D_{l−1}. exponential: they are constant, the law. quadratic: they are linear in l. floor:
    those of D_l ∝ ρ^l + c, an exponential that falls to a floor. Least squares with normal errors. The residuals of
    log D itself are correlated from layer to layer, those of its increments are not.
    """

    exponential: float
    quadratic: float
    floor: float


def compare_increment_laws(fuzziness: ArrayLike) -> IncrementLaws:
    """Compare the law with its rivals on the increments of log D; fuzziness: as for :func:`fit_law`.

    Raises ValueError where that does, and for fewer than eight points.
    """
    from scipy.optimize import least_squares
    from scipy.special import expit

    fit_law(fuzziness)
    values = np.log(np.asarray(fuzziness, dtype=np.float64))
    if len(values) < MIN_POINTS:
        raise ValueError(f"{len(values)} points: at least {MIN_POINTS} are needed to tell the rivals apart")
    increments, layers = np.diff(values), np.arange(len(values))
    line = np.polyfit(layers[1:], increments, 1)

    def excess(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the increments of ρ^l + c less those of log D. parameters: log ρ, log c."""
        return np.asarray(np.diff(np.logaddexp(parameters[0] * layers, parameters[1])) - increments)

    def gradient(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        share = expit(parameters[0] * layers - parameters[1])
        return np.asarray(np.diff(np.stack([share * layers, 1 - share]), axis=1).T)

    start = (min(increments.mean(), -1e-3), values[-1] - values[0] - 1)
    # The floor is between a negligible one and that of a curve that hardly falls.
    bounds = ([-20.0, -40.0], [0.0, 10.0])
    fitted = least_squares(excess, start, gradient, bounds)
    residuals = (increments - increments.mean(), increments - np.polyval(line, layers[1:]), fitted.fun)
    return IncrementLaws(*(_corrected_aic(part, count) for part, count in zip(residuals, (1, 2, 2), strict=True)))


def _corrected_aic(residuals: NDArray[np.float64], parameters: int) -> float:
    """Return AICc of a model with normal errors; parameters: of the curve, to which the variance is added."""
    count, estimated = len(residuals), parameters + 1
    variance = max(float(residuals @ residuals) / count, 1e-30)
    likelihood = -count / 2 * (math.log(2 * math.pi * variance) + 1)
    return 2 * estimated - 2 * likelihood + 2 * estimated * (estimated + 1) / (count - estimated - 1)
