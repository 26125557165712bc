"""A trained network under perturbation: separation fuzziness D of each layer, and accuracy, against strength.

Perturbations: Gaussian noise on the weights of all layers or of one; Gaussian noise on the images; corruptions of
images; adversarial images by one step (FGSM) or several (PGD). Draws of one strength go through the network together;
they fill the machine, so that putting several networks together as well would gain nothing.

Why the law should matter here (claim 7). With D_last = D_0 Π ρ_l, let a perturbation change each layer's ratio by an
independent ε_l of mean 0 and variance σ². To first order

    log D_last changes by Σ ε_l / ρ_l,      of variance σ² Σ ρ_l⁻²,

and at a given product Π ρ_l = P of L ratios the inequality of the arithmetic and the geometric mean gives

    Σ ρ_l⁻² ≥ L (Π ρ_l⁻²)^(1/L) = L P^(−2/L),      equal if and only if all ρ_l are equal.

So equal ratios are the least sensitive, and in a given network the layer with the smallest ratio is the most sensitive
one. He & Su, PNAS 2023, state this of their law; the assumption that makes it true, perturbations that change every
ratio by as much, is theirs to make and ours to measure: the kind ``one_layer`` is for that.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from equisep.config import Measure, Robustness
from equisep.measures import PerturbationResult, as_class_labels, fit_law, fuzziness_of_draws
from equisep.networks import gains_from_batching
from equisep.robustness.attacks import attack
from equisep.robustness.corruptions import corrupt
from equisep.robustness.images import IMAGES_AT_ONCE, Images

# Numbers that the draws of one pass may put out at a layer: few enough to stay near the cache.
VALUES_AT_ONCE = 1 << 19
Weights = dict[str, Tensor]
Outputs = Callable[[Weights, Tensor], tuple[Tensor, ...]]


def measure_robustness(
    network: nn.Module, layers: Sequence[str], train: Images, test: Images, asked: Robustness, measure: Measure
) -> tuple[PerturbationResult, ...]:
    """Return what a network is worth under each kind and strength of perturbation that is asked for.

    network: of any kind, left as it is. layers: the modules whose outputs are the points of the law behind the input.
    train, test: D and training accuracy are of the first, test accuracy of the second. measure: its batch
    normalisation, batch size and weighting hold for D here too; accuracies are in evaluation mode. Noise is the same
    for all networks of a shape, and for all strengths but for its scale. Features are taken in the network's precision.
    """
    probe = _Probe(network, layers, train, test, asked, measure)
    cells = [probe.clean()]
    cells += probe.under_weight_noise()
    cells += probe.under_noise_on_one_layer()
    cells += probe.under_changed_images("input_noise", asked.input_noise, _add_noise)
    cells += probe.under_changed_images("corruptions", asked.corruptions, corrupt)
    cells += probe.under_attack("fgsm", asked.fgsm)
    cells += probe.under_attack("pgd", asked.pgd)
    return tuple(cells)


class _Probe:
    """A network with the images it is tried on, in the two modes that D and accuracy are taken in."""

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        train: Images,
        test: Images,
        asked: Robustness,
        measure: Measure,
    ) -> None:
        self.layers, self.asked, self.measure = tuple(layers), asked, measure
        self.train, self.test = train, test
        self.classes = as_class_labels(train.split.labels, len(train.split.labels)).to(train.split.inputs.device)
        evaluated = copy.deepcopy(network).eval().requires_grad_(False)
        self.plain = evaluated
        self.fused = _without_batch_norm(copy.deepcopy(evaluated))
        # Statistics of the batch alone, as nothing is kept that could be updated.
        self.measured = copy.deepcopy(evaluated)
        for module in self.measured.modules():
            if isinstance(module, _BatchNorm) and measure.batch_norm == "batch":
                module.train()
                module.track_running_stats = False
        self.weights = {name: weight for name, weight in evaluated.named_parameters() if weight.ndim > 1}
        self.batched = gains_from_batching(network)
        self.draws_at_once = self._draws_at_once()

    def clean(self) -> PerturbationResult:
        """Return what the network is worth unperturbed."""
        fuzziness = self._fuzziness({}, self.train.split.inputs[None])
        accuracies = [self._correct(part.split.inputs[None], part.split.labels) for part in (self.train, self.test)]
        return _cell("clean", 0.0, fuzziness, *accuracies)

    def under_weight_noise(self) -> Iterator[PerturbationResult]:
        """Yield a cell a strength of noise on the weights of all layers, relative to each layer's norm."""
        noise = self._weight_noise() if self.asked.weights else {}
        for strength in self.asked.weights:
            found: list[tuple[Tensor, ...]] = []
            for draws in self._draws():
                weights = {name: self._perturbed(name, noise[name][draws], strength) for name in self.weights}
                correct = [self._correct_under(weights, part) for part in (self.train, self.test)]
                found.append((self._fuzziness(weights, self.train.split.inputs), *correct))
            yield _cell("weights", strength, *(torch.cat(parts) for parts in zip(*found, strict=True)))

    def under_noise_on_one_layer(self) -> Iterator[PerturbationResult]:
        """Yield a cell a strength and layer, of noise on the weights of that layer alone."""
        noise = self._weight_noise() if self.asked.one_layer else {}
        for strength in self.asked.one_layer:
            for layer, name in enumerate(self.weights, start=1):
                found = [
                    self._fuzziness(
                        {name: self._perturbed(name, noise[name][draws], strength)},
                        self.train.split.inputs,
                        self.layers[-1:],
                    )
                    for draws in self._draws()
                ]
                yield _cell("one_layer", strength, torch.cat(found), layer=layer)

    def under_changed_images(
        self, kind: str, strengths: Sequence[float], change: Callable[[Tensor, float, int, int], Tensor]
    ) -> Iterator[PerturbationResult]:
        """Yield a cell a strength of images changed by ``change(intensities, strength, draw, seed)``."""
        parts = [(part, part.intensities()) for part in (self.train, self.test)]
        for strength in strengths:
            found = []
            for draws in self._draws():
                changed = [
                    torch.stack(
                        [
                            part.normalised(change(intensities, strength, draw, self._seed(place, draw)))
                            for draw in draws.tolist()
                        ]
                    )
                    for place, (part, intensities) in enumerate(parts)
                ]
                correct = [
                    self._correct(inputs, part.split.labels) for inputs, (part, _) in zip(changed, parts, strict=True)
                ]
                found.append((self._fuzziness({}, changed[0]), *correct))
            yield _cell(kind, strength, *(torch.cat(parts) for parts in zip(*found, strict=True)))

    def under_attack(self, kind: str, strengths: Sequence[float]) -> Iterator[PerturbationResult]:
        """Yield a cell a strength of adversarial images, found in the ball of that radius (largest change, intensity).

        An image found at one strength lies in every larger ball: it counts as found there too, and of the test images
        only those are attacked that still stand. Of the training images all are, in fewer draws, since D wants them.
        """
        draws = self.asked.draws if kind == "pgd" else 1
        test_standing = self._stands(self.test).repeat(draws, 1)
        train_draws = min(draws, self.asked.attacked_training_draws)
        train_standing = self._stands(self.train).repeat(train_draws, 1)
        for place, strength in enumerate(sorted(strengths)):
            attacked = self._attack(kind, strength, self.train, torch.ones_like(train_standing), place)
            inputs = self.train.normalised(attacked).view(train_draws, *self.train.split.inputs.shape)
            train_standing &= self._correct(inputs, self.train.split.labels)
            fuzziness = torch.cat([self._fuzziness({}, part) for part in torch.split(inputs, self.draws_at_once)])
            attacked = self._attack(kind, strength, self.test, test_standing, place)
            predicted = self._predict(self.test.normalised(attacked))
            survived = predicted == self.test.split.labels.expand_as(test_standing)[test_standing]
            test_standing = test_standing.masked_scatter(test_standing, survived)
            yield _cell(kind, strength, fuzziness, train_standing.clone(), test_standing.clone())

    def _attack(self, kind: str, strength: float, part: Images, chosen: Tensor, place: int) -> Tensor:
        """Return adversarial intensities for the chosen (draw, image) pairs, one after another."""
        steps = self.asked.attack_steps if kind == "pgd" else None
        return attack(self.fused, part, chosen.nonzero()[:, 1], strength, steps, self._seed(2, place))

    def _stands(self, part: Images) -> Tensor:
        return self._correct(part.split.inputs[None], part.split.labels)

    def _weight_noise(self) -> dict[str, Tensor]:
        """Return standard normal noise (draws, *shape) for each layer's weights."""
        generator = torch.Generator().manual_seed(self._seed(3, 0))
        return {
            name: torch.randn(self.asked.draws, *weight.shape, generator=generator).to(weight)
            for name, weight in self.weights.items()
        }

    def _perturbed(self, name: str, noise: Tensor, strength: float) -> Tensor:
        """Return (draws, *shape) weights with noise whose norm is, in the mean square, ``strength`` times theirs."""
        weight = self.weights[name]
        scale: Tensor = weight.norm() * (strength / math.sqrt(weight.numel()))
        return weight + noise * scale

    def _fuzziness(self, weights: Mapping[str, Tensor], inputs: Tensor, layers: Sequence[str] | None = None) -> Tensor:
        """Return D (draws, layers) of the input and the network's layers, or of ``layers`` alone.

        weights: (draws, *shape) in place of the network's own; inputs: (n, …) for all draws or (draws, n, …).
        """
        names = self.layers if layers is None else layers
        own = inputs.ndim == self.train.split.inputs.ndim + 1
        of_batch = self._over(self._outputs(names), (None, 0))
        of_draw = self._over(of_batch, (0 if weights else None, 0 if own else None))
        images = inputs.shape[1] if own else len(inputs)
        whole = images - images % self.measure.batch_size
        parts: list[list[Tensor]] = [[] for _ in names]
        # A last batch that is not full is one of another shape.
        for start, end, width in ((0, whole, self.measure.batch_size), (whole, images, images - whole)):
            if end > start:
                stretch = inputs[..., start:end, :, :, :]
                batches = stretch.reshape(*stretch.shape[:-4], -1, width, *stretch.shape[-3:])
                for part, output in zip(parts, of_draw(dict(weights), batches), strict=True):
                    part.append(output.flatten(1, 2).flatten(2))
        found = [self._fuzziness_of(torch.cat(part, 1)) for part in parts]
        if layers is None:
            of_input = self._fuzziness_of((inputs if own else inputs[None]).flatten(2))
            found.insert(0, of_input.expand_as(found[0]))
        return torch.stack(found, 1)

    def _over(self, function: Outputs, axes: tuple[int | None, int | None]) -> Outputs:
        """Return the function over the first axis of its weights, its inputs, or both: at once, where that pays."""
        if self.batched:
            return torch.vmap(function, axes)
        of_weights, of_inputs = (axis == 0 for axis in axes)

        def one_by_one(weights: Weights, inputs: Tensor) -> tuple[Tensor, ...]:
            count = len(inputs) if of_inputs else len(next(iter(weights.values())))
            found = [
                function(
                    {name: weight[index] for name, weight in weights.items()} if of_weights else weights,
                    inputs[index] if of_inputs else inputs,
                )
                for index in range(count)
            ]
            return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

        return one_by_one

    def _fuzziness_of(self, features: Tensor) -> Tensor:
        weighting: Any = self.measure.weighting
        return fuzziness_of_draws(features, self.classes, weighting=weighting)

    def _outputs(self, names: Sequence[str]) -> Outputs:
        """Return the function from weights and a batch to the outputs of the named modules."""
        modules = dict(self.measured.named_modules())

        def outputs_of(weights: Weights, batch: Tensor) -> tuple[Tensor, ...]:
            outputs: dict[str, Tensor] = {}

            def record(name: str) -> Any:
                # A later in-place operation would overwrite the output.
                return lambda module, args, output: outputs.update({name: output.clone()})

            handles = [modules[name].register_forward_hook(record(name)) for name in names]
            try:
                functional_call(self.measured, weights, (batch,))
            finally:
                for handle in handles:
                    handle.remove()
            return tuple(outputs[name] for name in names)

        return outputs_of

    @torch.no_grad()
    def _correct_under(self, weights: dict[str, Tensor], part: Images) -> Tensor:
        """Return (draws, n) whether images are classified rightly under weights (draws, *shape)."""

        def logits(perturbed: Weights, batch: Tensor) -> tuple[Tensor, ...]:
            return (functional_call(self.plain, perturbed, (batch,)),)

        run = self._over(logits, (0, None))
        predicted = [_decide(run(weights, chunk)[0]) for chunk in torch.split(part.split.inputs, IMAGES_AT_ONCE)]
        correct: Tensor = torch.cat(predicted, 1) == part.split.labels
        return correct

    def _correct(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return (draws, n) whether inputs (draws, n, …) are classified rightly."""
        correct: Tensor = self._predict(inputs.flatten(0, 1)).view(inputs.shape[:2]) == labels
        return correct

    @torch.no_grad()
    def _predict(self, inputs: Tensor) -> Tensor:
        chunks = [_decide(self.fused(chunk)) for chunk in torch.split(inputs, IMAGES_AT_ONCE)]
        return torch.cat(chunks)

    def _draws(self) -> Iterator[Tensor]:
        """Yield the numbers of the draws that go through the network together."""
        yield from torch.split(torch.arange(self.asked.draws), self.draws_at_once)

    def _draws_at_once(self) -> int:
        """Return how many draws go through the network together."""
        outputs = self._outputs(self.layers)({}, self.train.split.inputs[:2])
        widest = max(output[0].numel() for output in outputs)
        return max(1, min(self.asked.draws, VALUES_AT_ONCE // (widest * len(self.classes))))

    def _seed(self, purpose: int, draw: int) -> int:
        """Return a seed of its own for each purpose (0 training images, 1 test images, 2 attacks, 3 weights)."""
        return (self.asked.seed * 4 + purpose) * 1_000_003 + draw


def _cell(
    kind: str,
    strength: float,
    fuzziness: Tensor,
    train_correct: Tensor | None = None,
    test_correct: Tensor | None = None,
    *,
    layer: int | None = None,
) -> PerturbationResult:
    """Return a cell of D (draws, layers) and of whether images (draws, n) are classified rightly."""
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
        train_accuracy=_shares(train_correct),
        test_accuracy=_shares(test_correct),
    )


def _decide(logits: Tensor) -> Tensor:
    """Return the class that logits (…, K) speak for, −1 where one of them is not finite: such an answer is wrong."""
    return torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1)


def _correlation(fuzziness: Sequence[float]) -> float:
    try:
        return fit_law(fuzziness).pearson_r
    except ValueError:
        return math.nan


def _shares(correct: Tensor | None) -> tuple[float, ...]:
    return () if correct is None else tuple(correct.double().mean(1).tolist())


def _without_batch_norm(network: nn.Module) -> nn.Module:
    """Take the batch normalisation of a network in evaluation mode into the layer before it; the function stays.

    Only where both stand side by side in a Sequential; elsewhere it is left. It halves the cost of an attack.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for place in range(len(module) - 1):
            layer, norm = module[place], module[place + 1]
            if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                module[place], module[place + 1] = fuse_linear_bn_eval(layer, norm), nn.Identity()
            elif isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[place], module[place + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return network


def _add_noise(intensities: Tensor, strength: float, draw: int, seed: int) -> Tensor:
    """Return images with normal noise of a standard deviation of ``strength``; what leaves 0 … 1 is cut off."""
    noise = torch.randn(intensities.shape, generator=torch.Generator().manual_seed(seed)).to(intensities)
    return (intensities + strength * noise).clamp(0, 1)
