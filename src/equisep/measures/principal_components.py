"""Principal components of features of many more dimensions than points."""

import torch
from torch import Tensor

from equisep.measures.scatter import as_draws, require_finite

# Passes over the data and columns beside the components, of StreamedComponents.
PASSES, OVERSAMPLING = 3, 10


class _Axes:
    """A centre (p,) and axes (p, components), float64, on which features are projected."""

    mean: Tensor
    axes: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Return (b, p) features as (b, components) float64 coordinates."""
        coordinates: Tensor = (as_draws(features)[0].double() - self.mean) @ self.axes
        return coordinates


class PrincipalComponents(_Axes):
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


class StreamedComponents(_Axes):
    """The first principal components of features that are added in batches of rows, several times, with their error.

    Randomised subspace iteration (Halko, Martinsson & Tropp, SIAM Review 2011): each pass multiplies an orthonormal
    basis of components + OVERSAMPLING columns by the covariance, PASSES times; the axes are the Ritz vectors of the
    last. Memory O(p · columns), on the device of the features.

    After the last pass, axes: (p, components), fewer for a lower rank; share: of the variance that they capture; error:
    the largest residual of a Ritz vector over the largest variance, which bounds the error of each variance likewise.
    """

    def __init__(self, components: int) -> None:
        """components: ≥ 1."""
        self.components = components
        self.passes = 0
        self.rows = 0
        self.basis = self.product = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """Add the next (b, p) rows of a pass."""
        rows = as_draws(features)[0].double()
        if not self.basis.numel():
            self._start(rows)
        if self.passes:
            # In the first pass the mean is not known yet.
            rows = rows - self.mean
        else:
            self.total += rows.sum(dim=0)
        self.product.addmm_(rows.mT, rows @ self.basis)
        self.squares += float(rows.square().sum())
        self.rows += len(rows)

    def _start(self, rows: Tensor) -> None:
        width = rows.shape[1]
        generator = torch.Generator().manual_seed(0)
        columns = min(width, self.components + OVERSAMPLING)
        random = torch.randn(width, columns, dtype=torch.float64, generator=generator).to(rows.device)
        self.basis = torch.linalg.qr(random).Q
        self.mean = self.total = rows.new_zeros(width)
        self.product = torch.zeros_like(self.basis)
        self.squares = 0.0

    def end_pass(self) -> None:
        """End a pass; raises NotFinite."""
        require_finite(self.product)
        if self.passes == 0:
            self.mean = self.total / self.rows
            self.product -= self.rows * torch.outer(self.mean, self.mean @ self.basis)
        self.passes += 1
        if self.passes < PASSES:
            self.basis = torch.linalg.qr(self.product).Q
            self.product, self.squares, self.rows = torch.zeros_like(self.basis), 0.0, 0
            return
        variances, vectors = torch.linalg.eigh(self.basis.mT @ self.product)
        chosen = variances.argsort(descending=True)[: self.components]
        variances, vectors = variances[chosen].clamp(min=0), vectors[:, chosen]
        usable = variances > self.rows * torch.finfo(torch.float64).eps * variances.max()
        usable[0] = True
        self.axes = (self.basis @ vectors)[:, usable]
        residual = self.product @ vectors - self.basis @ vectors * variances
        self.share = float(variances.sum()) / self.squares if self.squares else 1.0
        self.error = float(residual.norm(dim=0).max() / variances.max()) if float(variances.max()) else 0.0
        self.basis = self.product = torch.empty(0)
