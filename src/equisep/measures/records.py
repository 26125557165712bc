"""The vocabulary of results: an epoch of training, D of the layers of a snapshot, a network under perturbation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equisep.measures.law import Law, fit_law, normalized_auc


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy of an epoch's training steps, in training mode, averaged over images.

    epoch: number of epochs finished, from 1 on. loss: cross-entropy, nats. accuracy: 0 … 1.
    learning_rate: the epoch's.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float

    @property
    def diverged(self) -> bool:
        """Whether the loss is no longer a number."""
        return not math.isfinite(self.loss)


@dataclass(frozen=True)
class LayerRecord:
    """D of every layer of one snapshot on one split.

    epoch: of the snapshot. split: train or test. layers: names, the input first. fuzziness: D of each.
    rank: of SS_b at each. classes: K. loss (nats) and accuracy (0 … 1) in evaluation mode.
    """

    epoch: int
    split: str
    layers: tuple[str, ...]
    fuzziness: tuple[float, ...]
    rank: tuple[int, ...]
    classes: int
    loss: float
    accuracy: float

    def law(self) -> Law | None:
        """Return the law fitted to D of all layers, or None where some D has no logarithm."""
        try:
            return fit_law(self.fuzziness)
        except ValueError:
            return None


@dataclass(frozen=True)
class Measurement:
    """A measure of a run. settings: its identity, as plain containers; records: of snapshots, by epoch and split."""

    settings: Mapping[str, Any]
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class PerturbationResult:
    """D and accuracy of a network under one kind of perturbation at one strength.

    kind: clean, weights, one_layer, input_noise, corruptions, fgsm or pgd. strength: see conf/robustness; 0 for clean.
    layer: the one whose weights are perturbed, of those with weights, counted from 1; None for all or none.
    fuzziness: D of each measured layer on the training images, the input first, geometric mean over draws; for
    one_layer the last layer alone; NaN where D of a draw has no logarithm. last_fuzziness, r: for each draw, D of the
    last layer and the law's correlation. train_accuracy, test_accuracy (0 … 1): for each draw, in evaluation mode;
    empty for one_layer.
    """

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
    """A robustness evaluation of a run's trained network. settings: its identity, as plain containers."""

    settings: Mapping[str, Any]
    results: tuple[PerturbationResult, ...]


def accuracy_areas(results: Sequence[PerturbationResult]) -> dict[str, float]:
    """Return by kind the normalised area under test accuracy against strength, relative to the unperturbed network.

    Of the curve of means over draws, from strength 0 to the largest: 1 where nothing is lost. NaN where the unperturbed
    network classifies nothing correctly.
    """
    (clean,) = (result for result in results if result.kind == "clean")
    (unperturbed,) = clean.test_accuracy
    curves: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        if result.kind != "clean" and result.test_accuracy:
            height = sum(result.test_accuracy) / len(result.test_accuracy)
            curves.setdefault(result.kind, [(0.0, unperturbed)]).append((result.strength, height))
    return {
        kind: normalized_auc(*zip(*curve, strict=True)) / unperturbed if unperturbed else math.nan
        for kind, curve in curves.items()
    }
