"""Principal components of features of many more dimensions than points."""

import torch
from torch import Tensor

from equisep.measures.scatter import as_draws, require_finite


class PrincipalComponents:
    """The first principal components of features, for projecting other rows of the same features.

    The axes are the leading right singular vectors of the centred (n, p) features, computed in float64 from the n×n
    Gram matrix, without the p×p covariance. Features of lower rank keep as many axes as their rank.
    """

    def __init__(self, features: Tensor, components: int) -> None:
        """features: (n, p), n up to several thousand; components: ≥ 1. Raises NotFinite."""
        centred = as_draws(features)[0].to(torch.float64, copy=True)
        self.mean = centred.mean(dim=0)
        centred -= self.mean
        require_finite(centred)
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        leading = variances.argsort(descending=True)[:components]
        usable = variances[leading] > len(centred) * torch.finfo(torch.float64).eps * variances.max()
        # Constant features have rank 0 and keep one axis of zeros: their projection is constant too.
        kept = leading[usable] if usable.any() else leading[:1]
        lengths = torch.where(variances[kept] > 0, variances[kept], 1.0).sqrt()
        self.axes = centred.T @ (vectors[:, kept] / lengths)

    def project(self, features: Tensor) -> Tensor:
        """Return (b, p) features as (b, components) float64 coordinates."""
        coordinates: Tensor = (as_draws(features)[0].double() - self.mean) @ self.axes
        return coordinates
