"""Measures of one layer's labelled features beside D, from the same two passes: neural collapse, class distances.

Features h of n points, K classes of n_k points, class means μ_k, Var_k = Σ_i ‖h_ki − μ_k‖² / n_k, and the mean of the
class means μ̄. All of them stream: memory O(pK), and per point and class the work of one projection. Those that need all
features at once are in :mod:`equisep.measures.spectra`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equisep.measures.principal_components import StreamedComponents
from equisep.measures.scatter import ClassSums, Weighting, WithinClassScatter, require_finite

# Metrics that follow from D and the class means, without distances of points.
OF_MEANS = ("fuzziness", "rank", "nc1", "nc2", "nc3", "discrimination")
# The default, in the order of a table.
STREAMED = (
    *("fuzziness", "rank", "nc1", "nc2", "nc3", "nc4", "cdnv", "compression", "discrimination", "trace_ratio"),
    *("ncm_accuracy", "ncm_mismatch"),
)


class LayerPasses:
    """Two passes over one layer's features, then its metrics; a third over held-out features if there are any.

    classes: K. weighting: of the classes in D, see :func:`equisep.separation_fuzziness`. names: of the metrics that are
    wanted; those of OF_MEANS alone spare a part of the second pass, and leave the others undefined. components: on
    which features are projected first, or None.
    """

    def __init__(
        self,
        classes: int,
        weighting: Weighting,
        names: Sequence[str] = STREAMED,
        components: StreamedComponents | None = None,
    ) -> None:
        self.components = components
        self.distances_wanted = bool(set(names) - set(OF_MEANS))
        self.sums = ClassSums(classes, weighting)
        self.scatter: WithinClassScatter | None = None
        self.variances = torch.zeros(classes, dtype=torch.float64)
        self.correct: dict[str, int] = {}
        self.agreeing: dict[str, int] = {}
        self.seen: dict[str, int] = {}

    def add_first(self, features: Tensor, labels: Tensor) -> None:
        """Add the next rows (b, p) with their class numbers (b,) in the first pass."""
        self.sums.add(self.projected(features), labels)

    def projected(self, features: Tensor) -> Tensor:
        """Return features (b, p) on the components, where there are any."""
        return features if self.components is None else self.components.project(features)

    def start_second(self) -> None:
        """End the first pass; raises NotFinite."""
        self.scatter = self.sums.scatter(subtract_means=self.distances_wanted)
        if (self.scatter.rank < 0).any():
            require_finite(torch.tensor(torch.nan))
        self.means = (sum(self.sums.sums[1:], self.sums.sums[0]) / self.sums.counts[:, None])[0]
        self.centre = self.means.mean(dim=0)
        self.centred = self.means - self.centre
        # ⟨h − μ_y, μ_j − μ_y⟩ from the projection (h − μ_y) V S⁻¹: S² (V S⁻¹)ᵀ μ_j, up to directions of no weight.
        directions = self.scatter.projection[0]
        scale = directions.square().sum(dim=0)
        inverse = torch.where(scale > 0, 1 / scale.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        self.along = inverse[:, None] * (directions.mT @ self.centred.mT)
        self.distances = _squared_distances(self.centred)
        self.variances = self.variances.to(self.means.device)
        # The rounding errors of the class means vanish in the sums of what is left.
        self.residual = torch.zeros(len(self.means), directions.shape[1], dtype=torch.float64, device=self.means.device)

    def add_second(self, features: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
        """Add the rows of the first pass again. predictions: (b,) class numbers that the network predicts, or None."""
        scatter = self._scatter()
        place = 0
        for part, projected, norms in scatter.project(self.projected(features), labels, squares=self.distances_wanted):
            rows = projected[0]
            if norms is not None:
                of_part = None if predictions is None else predictions[place : place + len(part)]
                self._count("train", rows, part, of_part)
                self.variances.index_add_(0, part, norms[0])
            place += len(part)
            self.residual.index_add_(0, part, rows)
            scatter.total += rows.square().sum(1) @ scatter.point_weights[part]
            scatter.seen += len(part)

    def add_held_out(self, features: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
        """Add rows of other points, whose nearest class mean is that of the points of the first two passes."""
        place = 0
        for part, projected, _ in self._scatter().project(self.projected(features), labels):
            own = None if predictions is None else predictions[place : place + len(part)]
            self._count("held_out", projected[0], part, own)
            place += len(part)

    def _scatter(self) -> WithinClassScatter:
        assert self.scatter is not None, "the second pass comes after the first"
        return self.scatter

    def _count(self, split: str, rows: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
        """Count in how many rows the nearest class mean is that of the label, and that of the prediction."""
        # ‖h − μ_j‖² − ‖h − μ_y‖² = ‖μ_j − μ_y‖² − 2 ⟨h − μ_y, μ_j − μ_y⟩.
        along = rows @ self.along
        excess = self.distances[labels] - 2 * (along - along.gather(1, labels[:, None]))
        nearest = excess.argmin(dim=1)
        self.seen[split] = self.seen.get(split, 0) + len(labels)
        self.correct[split] = self.correct.get(split, 0) + int((nearest == labels).sum())
        if predictions is not None:
            agreeing = int((nearest == predictions.to(nearest.device)).sum())
            self.agreeing[split] = self.agreeing.get(split, 0) + agreeing

    def changed_between_passes(self) -> float:
        """Return how far class means of the second pass are from those of the first, over the spread of the points.

        0 up to rounding, unless the data differ from pass to pass, as with random augmentation.
        """
        counts = self._scatter().counts
        spread = math.sqrt(max(float(self._scatter().total), torch.finfo(torch.float64).tiny) / len(counts))
        return float((self.residual / counts[:, None]).abs().max()) / spread

    def metrics(self, classifier: Tensor | None) -> dict[str, float]:
        """Return the metrics of STREAMED, and of held-out rows if there are any; NaN where one is not defined.

        fuzziness: D = Tr(SS_w SS_b⁺), and rank, of SS_b (He & Su 2023, equation 1).
        nc1: D / K. nc2: ‖G/‖G‖_F − (I − 11ᵀ/K)/√(K−1)‖_F, G = M̄ M̄ᵀ, the rows of M̄ (K, p) being μ_k − μ̄; 0 for
        a simplex. nc3: the same of W M̄ᵀ, W (K, p) the classifier's weights. nc4: share of points whose predicted class
        has the nearest mean. Both NaN where the layer is not what the classifier takes. (Papyan, Han & Donoho, PNAS
        2020)
        cdnv: mean over pairs of classes of (Var_i + Var_j) / (2 ‖μ_i − μ_j‖²). (Galanti, György & Hutter, ICLR 2022)
        compression: Σ_k n_k Var_k / n over Σ_k ‖μ_k − μ̄‖² / K. discrimination: 1 − max cos(μ_k, μ_j) over k ≠ j, means
        not centred. (Wang et al., arXiv:2311.02960)
        trace_ratio: Tr SS_w / Tr SS_b, class weights as in D.
        ncm_accuracy: share of points with the nearest class mean of their class. ncm_mismatch: share of points whose
        predicted class has not the nearest mean; NaN without predictions. (Ben-Shaul & Dekel, arXiv:2201.08924)

        classifier: (K, p) weights, or None.
        """
        scatter = self._scatter()
        counts, centred = scatter.counts, self.centred
        classes = len(counts)
        variances = self.variances / counts
        pairs = torch.triu_indices(classes, classes, 1, device=centred.device)
        sums = variances[pairs[0]] + variances[pairs[1]]
        weights = scatter.point_weights * counts
        around = self.means - weights @ self.means
        between = float(weights @ around.square().sum(1))
        values = {
            "fuzziness": float(scatter.fuzziness()),
            "rank": float(scatter.rank),
            "nc1": float(scatter.fuzziness()) / classes,
            "nc2": _from_simplex(centred @ centred.mT),
            "nc3": math.nan if classifier is None else _from_simplex(classifier.to(centred) @ centred.mT),
            "nc4": math.nan if classifier is None else self._share("train", self.agreeing),
            "cdnv": float((sums / (2 * self.distances[pairs[0], pairs[1]])).mean()),
            "compression": _ratio(float(self.variances.sum() / counts.sum()), float(centred.square().sum()) / classes),
            "discrimination": 1 - _largest_cosine(self.means),
            "trace_ratio": _ratio(float(scatter.point_weights @ self.variances), between),
            "ncm_accuracy": self._share("train", self.correct),
            "ncm_mismatch": 1 - self._share("train", self.agreeing),
        }
        if "held_out" in self.seen:
            values["ncm_accuracy_held_out"] = self._share("held_out", self.correct)
            values["ncm_mismatch_held_out"] = 1 - self._share("held_out", self.agreeing)
        return values

    def _share(self, split: str, counted: dict[str, int]) -> float:
        return counted[split] / self.seen[split] if split in counted else math.nan


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan if above == 0 else math.inf


def _from_simplex(matrix: Tensor) -> float:
    """Return the distance of a (K, K) matrix of unit norm from that of a simplex; NaN for one of zeros."""
    classes, norm = len(matrix), float(torch.linalg.matrix_norm(matrix))
    if norm == 0:
        return math.nan
    simplex = torch.eye(classes, dtype=matrix.dtype, device=matrix.device) - 1 / classes
    return float(torch.linalg.matrix_norm(matrix / norm - simplex / math.sqrt(classes - 1)))


def _largest_cosine(means: Tensor) -> float:
    """Return the largest cosine between two of the rows of (K, p); NaN where a row is 0."""
    lengths = means.norm(dim=1, keepdim=True)
    if not (lengths > 0).all():
        return math.nan
    cosines = (means / lengths) @ (means / lengths).mT
    return float(cosines.fill_diagonal_(-torch.inf).max())


def _squared_distances(means: Tensor) -> Tensor:
    """Return (K, K) squared distances of the rows of (K, p), from differences: close means keep their digits."""
    return torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
