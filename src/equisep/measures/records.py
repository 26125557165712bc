"""Records of results: training epochs, D of the layers of a snapshot, networks under perturbation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from equisep.measures.law import Law, fit_law, normalized_auc


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy of the training steps of an epoch, in training mode, averaged over images.

    epoch: number of completed epochs, ≥ 1. loss: cross-entropy, nats. accuracy: 0 … 1.
    """

    # The store reads records with pydantic, which is to refuse unknown keys.
    __pydantic_config__: ClassVar = {"extra": "forbid"}
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float

    @property
    def diverged(self) -> bool:
        """Whether the loss is not finite."""
        return not math.isfinite(self.loss)


@dataclass(frozen=True)
class LayerRecord:
    """D of every layer of one snapshot on one split.

    epoch: of the snapshot. split: train or test. layers: names, the input first. fuzziness, rank: D and the rank of
    SS_b per layer. classes: K. loss (nats), accuracy (0 … 1): in evaluation mode.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    epoch: int
    split: str
    layers: tuple[str, ...]
    fuzziness: tuple[float, ...]
    rank: tuple[int, ...]
    classes: int
    loss: float
    accuracy: float

    def law(self) -> Law | None:
        """Return the law fitted to D of all layers, or None where some D is zero or not finite."""
        try:
            return fit_law(self.fuzziness)
        except ValueError:
            return None


@dataclass(frozen=True)
class Measurement:
    """A measurement of a run. settings: its identity, as plain containers. records: by epoch and split."""

    settings: Mapping[str, Any]
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class PerturbationResult:
    """D and accuracy of a network under one kind of perturbation at one strength.

    kind: clean, weights, one_layer, input_noise, corruptions, fgsm or pgd.
    strength: as in equisep.config.Robustness; 0 for clean.
    layer: number of the only layer with perturbed weights, from 1, among the layers with weights; None for all or none.
    fuzziness: D per measured layer on the training images, the input first, geometric mean over draws; NaN where D of a
        draw is zero or not finite. For one_layer the last layer only.
    last_fuzziness, r: D of the last layer and Pearson correlation of the law, per draw; r is empty for one_layer.
    train_accuracy, test_accuracy: 0 … 1, in evaluation mode, per draw; empty for one_layer.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    kind: str
    strength: float
    layer: int | None
    fuzziness: tuple[float, ...]
    last_fuzziness: tuple[float, ...]
    r: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    test_accuracy: tuple[float, ...]


@dataclass(frozen=True)
class RobustnessResults:
    """A robustness evaluation of a run. settings: its identity, as plain containers."""

    settings: Mapping[str, Any]
    results: tuple[PerturbationResult, ...]


def accuracy_areas(results: Sequence[PerturbationResult]) -> dict[str, float]:
    """Return per kind the normalised area under test accuracy against strength, relative to the unperturbed network.

    The curve is the mean over draws, from strength 0 to the largest; 1 means that no accuracy is lost. NaN where the
    accuracy of the unperturbed network is 0.
    """
    (clean,) = (result for result in results if result.kind == "clean")
    (unperturbed,) = clean.test_accuracy
    curves: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        if result.kind != "clean" and result.test_accuracy:
            mean = sum(result.test_accuracy) / len(result.test_accuracy)
            curves.setdefault(result.kind, [(0.0, unperturbed)]).append((result.strength, mean))
    return {
        kind: normalized_auc(*zip(*curve, strict=True)) / unperturbed if unperturbed else math.nan
        for kind, curve in curves.items()
    }
