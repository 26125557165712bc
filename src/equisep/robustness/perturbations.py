"""Separation fuzziness D of each layer and accuracy of a trained network under perturbations of increasing strength.

Perturbations: Gaussian noise on the weights of all layers or of one layer, Gaussian noise on the images, corrupted
images, adversarial images (FGSM and PGD). The draws of a strength are batched. They saturate the hardware, so that
batching several networks as well would gain nothing.

Why the law should matter for robustness (claim 7): with D_last = D_0 Π ρ_l, let a perturbation change each layer's
ratio ρ_l by an independent ε_l of mean 0 and variance σ². To first order

    log D_last changes by Σ ε_l / ρ_l,      with variance σ² Σ ρ_l⁻²,

and for a given product Π ρ_l = P of L ratios the inequality of arithmetic and geometric means gives

    Σ ρ_l⁻² ≥ L (Π ρ_l⁻²)^(1/L) = L P^(−2/L),      with equality if and only if all ρ_l are equal.

Equal ratios are therefore the least sensitive, and within a network the layer with the smallest ratio is the most
sensitive (He & Su, PNAS 2023). This assumes that perturbations change all ratios equally, which the kind ``one_layer``
measures.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from equisep.config import Measure, Robustness
from equisep.measures import PerturbationResult, Recorder, as_class_labels, fit_law, fuzziness_of_draws, parse_layer
from equisep.networks import gains_from_batching
from equisep.robustness.attacks import attack
from equisep.robustness.corruptions import corrupt
from equisep.robustness.images import IMAGES_AT_ONCE, Images

# Largest number of output values of a layer over the draws of one pass, chosen to fit the cache.
VALUES_AT_ONCE = 1 << 19
Weights = dict[str, Tensor]
Outputs = Callable[[Weights, Tensor], tuple[Tensor, ...]]


def measure_robustness(
    network: nn.Module, layers: Sequence[str], train: Images, test: Images, settings: Robustness, measure: Measure
) -> tuple[PerturbationResult, ...]:
    """Return the results for each kind and strength of perturbation in the settings, starting with the clean network.

    network: any module, left unchanged. layers: names of the modules whose outputs are the measured layers after the
    input. train: images for D and training accuracy. test: images for test accuracy. measure: its batch_norm,
    batch_size and weighting apply to D; accuracies are in evaluation mode. Features are in the network's precision.
    Networks of equal shapes get the same noise, which is only scaled with the strength.
    """
    probe = _Probe(network, layers, train, test, settings, measure)
    return (
        probe.clean(),
        *probe.under_weight_noise(),
        *probe.under_noise_on_one_layer(),
        *probe.under_changed_images("input_noise", settings.input_noise, _add_noise),
        *probe.under_changed_images("corruptions", settings.corruptions, corrupt),
        *probe.under_attack("fgsm", settings.fgsm),
        *probe.under_attack("pgd", settings.pgd),
    )


class _Probe:
    """A network with its images, in the modes for D and for accuracy. Arguments as of measure_robustness."""

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        train: Images,
        test: Images,
        settings: Robustness,
        measure: Measure,
    ) -> None:
        self.layers, self.settings, self.measure = tuple(layers), settings, measure
        self.train, self.test = train, test
        self.classes = as_class_labels(train.split.labels, len(train.split.labels)).to(train.split.inputs.device)
        self.plain = copy.deepcopy(network).eval().requires_grad_(False)
        self.fused = _without_batch_norm(copy.deepcopy(self.plain))
        # With batch statistics only: there are no running ones to update.
        self.measured = copy.deepcopy(self.plain)
        for module in self.measured.modules():
            if isinstance(module, _BatchNorm) and measure.batch_norm == "batch":
                module.train()
                module.track_running_stats = False
        self.weights = {name: weight for name, weight in self.plain.named_parameters() if weight.ndim > 1}
        self.batched = gains_from_batching(network)
        self.weighting: Any = measure.weighting
        outputs = self._outputs(self.layers)({}, train.split.inputs[:2])
        values_per_draw = max(output[0].numel() for output in outputs) * len(self.classes)
        self.draws_at_once = max(1, min(settings.draws, VALUES_AT_ONCE // values_per_draw))
        self.draws = [draws.tolist() for draws in torch.split(torch.arange(settings.draws), self.draws_at_once)]

    def clean(self) -> PerturbationResult:
        """Return the result of the unperturbed network."""
        fuzziness = self._fuzziness({}, self.train.split.inputs[None])
        return _result("clean", 0.0, fuzziness, self._clean_correct(self.train), self._clean_correct(self.test))

    def under_weight_noise(self) -> Iterator[PerturbationResult]:
        """Yield a result per strength of noise on the weights of all layers, relative to each layer's norm."""
        noise = self._weight_noise() if self.settings.weights else {}
        for strength in self.settings.weights:
            batches: list[tuple[Tensor, ...]] = []
            for draws in self.draws:
                weights = {name: self._perturbed(name, noise[name][draws], strength) for name in self.weights}
                correct = [self._correct_under(weights, images) for images in (self.train, self.test)]
                batches.append((self._fuzziness(weights, self.train.split.inputs), *correct))
            yield _result("weights", strength, *map(torch.cat, zip(*batches, strict=True)))

    def under_noise_on_one_layer(self) -> Iterator[PerturbationResult]:
        """Yield a result per strength and layer, for noise on the weights of that layer only."""
        noise = self._weight_noise() if self.settings.one_layer else {}
        for strength in self.settings.one_layer:
            for layer, name in enumerate(self.weights, start=1):
                batches = []
                for draws in self.draws:
                    weights = {name: self._perturbed(name, noise[name][draws], strength)}
                    batches.append(self._fuzziness(weights, self.train.split.inputs, self.layers[-1:]))
                yield _result("one_layer", strength, torch.cat(batches), layer=layer)

    def under_changed_images(
        self, kind: str, strengths: Sequence[float], change: Callable[[Tensor, float, int, int], Tensor]
    ) -> Iterator[PerturbationResult]:
        """Yield a result per strength of images changed by ``change(intensities, strength, draw, seed)``."""
        originals = [(images, images.intensities()) for images in (self.train, self.test)]
        for strength in strengths:
            batches = []
            for draws in self.draws:
                inputs, correct = [], []
                for purpose, (images, intensities) in enumerate(originals):
                    changed = [change(intensities, strength, draw, self._seed(purpose, draw)) for draw in draws]
                    inputs.append(images.normalised(torch.stack(changed)))
                    correct.append(self._correct(inputs[-1], images.split.labels))
                batches.append((self._fuzziness({}, inputs[0]), *correct))
            yield _result(kind, strength, *map(torch.cat, zip(*batches, strict=True)))

    def under_attack(self, kind: str, strengths: Sequence[float]) -> Iterator[PerturbationResult]:
        """Yield a result per strength (radius in the maximum norm, intensities) of adversarial images.

        An adversarial image at one strength is one at every larger strength: it stays misclassified, and only test
        images that are still classified correctly are attacked again. All training images are attacked, as D needs
        them, but in fewer draws.
        """
        draws = self.settings.draws if kind == "pgd" else 1
        test_correct = self._clean_correct(self.test).repeat(draws, 1)
        train_draws = min(draws, self.settings.attacked_training_draws)
        train_correct = self._clean_correct(self.train).repeat(train_draws, 1)
        for index, strength in enumerate(sorted(strengths)):
            intensities = self._attack(kind, strength, self.train, torch.ones_like(train_correct), index)
            inputs = self.train.normalised(intensities).view(train_draws, *self.train.split.inputs.shape)
            train_correct &= self._correct(inputs, self.train.split.labels)
            fuzziness = torch.cat([self._fuzziness({}, batch) for batch in torch.split(inputs, self.draws_at_once)])
            intensities = self._attack(kind, strength, self.test, test_correct, index)
            predicted = self._predict(self.test.normalised(intensities))
            resisted = predicted == self.test.split.labels.expand_as(test_correct)[test_correct]
            test_correct = test_correct.masked_scatter(test_correct, resisted)
            yield _result(kind, strength, fuzziness, train_correct, test_correct)

    def _attack(self, kind: str, strength: float, images: Images, selected: Tensor, index: int) -> Tensor:
        """Return adversarial intensities (m, c, h, w) of the m selected (draw, image) pairs of a mask (draws, n)."""
        steps = self.settings.attack_steps if kind == "pgd" else None
        return attack(self.fused, images, selected.nonzero()[:, 1], strength, steps, self._seed(2, index))

    def _clean_correct(self, images: Images) -> Tensor:
        return self._correct(images.split.inputs[None], images.split.labels)

    def _weight_noise(self) -> dict[str, Tensor]:
        """Return standard normal noise (draws, *shape) for each layer's weights."""
        generator = torch.Generator().manual_seed(self._seed(3, 0))
        return {
            name: torch.randn(self.settings.draws, *weight.shape, generator=generator).to(weight)
            for name, weight in self.weights.items()
        }

    def _perturbed(self, name: str, noise: Tensor, strength: float) -> Tensor:
        """Return weights (draws, *shape) with noise of root-mean-square norm ``strength`` times the weights' norm."""
        weight = self.weights[name]
        scale: Tensor = weight.norm() * (strength / math.sqrt(weight.numel()))
        return weight + noise * scale

    def _fuzziness(self, weights: Mapping[str, Tensor], inputs: Tensor, layers: Sequence[str] | None = None) -> Tensor:
        """Return D (draws, layers) of the input and the network's layers, or only of ``layers``.

        weights: (draws, *shape), replacing the network's; inputs: (n, c, h, w) for all draws or (draws, n, c, h, w).
        """
        names = self.layers if layers is None else layers
        per_draw = inputs.ndim == self.train.split.inputs.ndim + 1
        outputs_of_batches = self._mapped(self._outputs(names), weights=False, inputs=True)
        outputs_of_draws = self._mapped(outputs_of_batches, weights=bool(weights), inputs=per_draw)
        full = inputs.shape[-4] - inputs.shape[-4] % self.measure.batch_size
        features: list[list[Tensor]] = [[] for _ in names]
        # A partial last batch has another shape.
        full_batches, last_batch = (-1, self.measure.batch_size), (1, -1)
        for images, shape in ((inputs[..., :full, :, :, :], full_batches), (inputs[..., full:, :, :, :], last_batch)):
            if images.numel():
                outputs = outputs_of_draws(
                    dict(weights), images.reshape(*images.shape[:-4], *shape, *images.shape[-3:])
                )
                for parts, output in zip(features, outputs, strict=True):
                    parts.append(output.flatten(1, 2))
        of_input = [(inputs if per_draw else inputs[None]).flatten(2)] if layers is None else []
        rows = itertools.chain(of_input, (torch.cat(parts, 1) for parts in features))
        # A relative error of 1e-5 is far below the spread of draws.
        fuzziness = [
            fuzziness_of_draws(values, self.classes, weighting=self.weighting, precision=values.dtype)
            for values in rows
        ]
        return torch.stack([values.expand_as(fuzziness[-1]) for values in fuzziness], 1)

    def _mapped(self, function: Outputs, *, weights: bool, inputs: bool) -> Outputs:
        """Return the function over the first axis of its weights, inputs or both, batched where that is faster."""
        if self.batched:
            return torch.vmap(function, (0 if weights else None, 0 if inputs else None))

        def one_by_one(stacked: Weights, images: Tensor) -> tuple[Tensor, ...]:
            outputs = []
            for index in range(len(images) if inputs else len(next(iter(stacked.values())))):
                single = {name: weight[index] for name, weight in stacked.items()} if weights else stacked
                outputs.append(function(single, images[index] if inputs else images))
            return tuple(map(torch.stack, zip(*outputs, strict=True)))

        return one_by_one

    def _outputs(self, names: Sequence[str]) -> Outputs:
        """Return the function from weights and a batch to the features (n, p) of the named layers."""
        recorder = Recorder([parse_layer(name) for name in names])

        def outputs_of(weights: Weights, batch: Tensor) -> tuple[Tensor, ...]:
            recorder.start(len(batch))
            with recorder.hooked(self.measured):
                functional_call(self.measured, weights, (batch,))
            return tuple(recorder.recorded().values())

        return outputs_of

    @torch.no_grad()
    def _correct_under(self, weights: dict[str, Tensor], images: Images) -> Tensor:
        """Return (draws, n) whether images are classified correctly under weights (draws, *shape)."""

        def logits(perturbed: Weights, batch: Tensor) -> tuple[Tensor, ...]:
            return (functional_call(self.plain, perturbed, (batch,)),)

        mapped = self._mapped(logits, weights=True, inputs=False)
        predicted = [_decide(mapped(weights, chunk)[0]) for chunk in torch.split(images.split.inputs, IMAGES_AT_ONCE)]
        correct: Tensor = torch.cat(predicted, 1) == images.split.labels
        return correct

    def _correct(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return (draws, n) whether inputs (draws, n, c, h, w) are classified correctly."""
        correct: Tensor = self._predict(inputs.flatten(0, 1)).view(inputs.shape[:2]) == labels
        return correct

    @torch.no_grad()
    def _predict(self, inputs: Tensor) -> Tensor:
        return torch.cat([_decide(self.fused(chunk)) for chunk in torch.split(inputs, IMAGES_AT_ONCE)])

    def _seed(self, purpose: int, draw: int) -> int:
        """Return a distinct seed per draw and purpose: 0 training images, 1 test images, 2 attacks, 3 weights."""
        return (self.settings.seed * 4 + purpose) * 1_000_003 + draw


def _result(
    kind: str,
    strength: float,
    fuzziness: Tensor,
    train_correct: Tensor | None = None,
    test_correct: Tensor | None = None,
    *,
    layer: int | None = None,
) -> PerturbationResult:
    """Return the record of D (draws, layers) and of whether images are classified correctly (draws, n)."""
    values = fuzziness.double().cpu()
    logarithms = values.log()
    means = torch.where(logarithms.isfinite().all(0), logarithms.mean(0).exp(), math.nan)
    return PerturbationResult(
        kind=kind,
        strength=float(strength),
        layer=layer,
        fuzziness=tuple(means.tolist()),
        last_fuzziness=tuple(values[:, -1].tolist()),
        r=tuple(map(_correlation, values.tolist())) if values.shape[1] > 1 else (),
        train_accuracy=_accuracies(train_correct),
        test_accuracy=_accuracies(test_correct),
    )


def _decide(logits: Tensor) -> Tensor:
    """Return the predicted classes of logits (…, K); −1, which is never correct, where a logit is not finite."""
    return torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1)


def _correlation(fuzziness: Sequence[float]) -> float:
    try:
        return fit_law(fuzziness).pearson_r
    except ValueError:
        return math.nan


def _accuracies(correct: Tensor | None) -> tuple[float, ...]:
    return () if correct is None else tuple(correct.double().mean(1).tolist())


def _without_batch_norm(network: nn.Module) -> nn.Module:
    """Fold the batch normalisation of a network in evaluation mode into the preceding layer of the same Sequential.

    The network computes the same function, at half the cost of an attack; other normalisations are kept.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index, (layer, norm) in enumerate(itertools.pairwise(list(module))):
            if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                module[index], module[index + 1] = fuse_linear_bn_eval(layer, norm), nn.Identity()
            elif isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index], module[index + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return network


def _add_noise(intensities: Tensor, strength: float, draw: int, seed: int) -> Tensor:
    """Return images with Gaussian noise of standard deviation ``strength``, clipped to 0 … 1."""
    noise = torch.randn(intensities.shape, generator=torch.Generator().manual_seed(seed)).to(intensities)
    return (intensities + strength * noise).clamp(0, 1)
