"""Measures of a layer that need all its features at once: spectrum, intrinsic dimension, a linear probe.

They take n·p·8 bytes for the features of n points in float64, and as much again for the spectrum's decomposition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Metrics by what they need.
SPECTRAL = ("rank_me", "numerical_rank")
FULL = (*SPECTRAL, "linear_probe", "two_nn")
# Singular values of the covariance below this share of the largest do not count (Masarczyk et al., 2305.19753).
NUMERICAL_RANK_TOLERANCE = 1e-3


def spectrum(features: Tensor, *, centred: bool) -> Tensor:
    """Return the singular values of features (n, p), float64, largest first, from the smaller Gram matrix.

    centred: whether the mean of each column is subtracted. Values below about 1e-8 of the largest are rounding.
    """
    values = features.double()
    values = values - values.mean(dim=0) if centred else values
    gram = values @ values.mT if len(values) < values.shape[1] else values.mT @ values
    variances: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0)
    return variances.sqrt().flip(0)


def rank_me(features: Tensor) -> float:
    """Return RankMe, exp(−Σ p log p) with p = σ / Σσ of the singular values σ of features (n, p), not centred.

    Between 1 and min(n, p); O(n p min(n, p)). (Garrido et al., ICML 2023)
    """
    values = spectrum(features, centred=False)
    shares = values / values.sum()
    kept = shares[shares > 0]
    return float(torch.exp(-(kept * kept.log()).sum()))


def numerical_rank(features: Tensor) -> int:
    """Return how many singular values of the covariance of features (n, p) exceed 1e-3 of the largest.

    O(n p min(n, p)). (Masarczyk et al., "The tunnel effect", NeurIPS 2023)
    """
    values = spectrum(features, centred=True).square()
    return int((values > NUMERICAL_RANK_TOLERANCE * values[0]).sum())


def linear_probe(features: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor] | None) -> tuple[float, float]:
    """Return the accuracies of logistic regression on features (n, p): on them and on held-out features and labels.

    scikit-learn's, on standardised features, with its default L2 penalty, at most 1,000 iterations of O(n p K). Without
    held-out features their accuracy is NaN. Raises ModuleNotFoundError without scikit-learn.
    """
    LogisticRegression: Any = _optional("sklearn.linear_model", "linear_probe").LogisticRegression
    make_pipeline: Any = _optional("sklearn.pipeline", "linear_probe").make_pipeline
    StandardScaler: Any = _optional("sklearn.preprocessing", "linear_probe").StandardScaler
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features.double().cpu().numpy(), labels.cpu().numpy())
    splits = [(features, labels), *([] if held_out is None else [held_out])]
    accuracies = [float(probe.score(x.double().cpu().numpy(), y.cpu().numpy())) for x, y in splits]
    return accuracies[0], accuracies[1] if held_out is not None else float("nan")


def two_nn(features: Tensor) -> float:
    """Return the intrinsic dimension of features (n, p) by the ratio of distances to the two nearest neighbours.

    scikit-dimension's TwoNN, which drops the tenth of points with the largest ratio; O(n² p). (Facco et al., Scientific
    Reports 2017) Raises ModuleNotFoundError without scikit-dimension.
    """
    estimator: Any = _optional("skdim.id", "two_nn").TwoNN()
    return float(estimator.fit_transform(features.double().cpu().numpy()))


def _optional(module: str, metric: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"metric {metric!r} needs {error.name}: pip install 'equisep[metrics]'") from None
