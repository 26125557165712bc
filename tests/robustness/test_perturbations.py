"""Robustness: batched draws agree with single networks perturbed by hand; properties of attacks and of results."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hydra.errors import HydraException
from torch import nn
from torch.nn.functional import cross_entropy

from equisep.config import Config, ConfigError, Robustness, compose_config
from equisep.config.schema import ROBUSTNESS_KINDS
from equisep.data import Data, Split
from equisep.measures import PerturbationResult, accuracy_areas, evaluate, fit_law, measure_separation
from equisep.networks import Network, build_network
from equisep.robustness import measure_robustness
from equisep.robustness.perturbations import Images
from equisep.store import DamagedRun, read_run
from tests.conftest import run_one

NONE: dict[str, list[float]] = {kind: [] for kind in ROBUSTNESS_KINDS}


@pytest.fixture(scope="module")
def config() -> Config:
    return compose_config(["architecture.depth=4", "robustness=standard"])


@pytest.fixture(scope="module")
def images(fashion: Data) -> tuple[Images, Images]:
    """350 training and 150 test images in float64: batches of 100 and a last batch of 50."""
    parts = ((fashion.train, 350), (fashion.test, 150))
    half = torch.tensor([0.5], dtype=torch.float64)
    train, test = (
        Images(Split(part.inputs[:count].double(), part.labels[:count]), half, half) for part, count in parts
    )
    return train, test


@pytest.fixture(scope="module")
def network(config: Config, images: tuple[Images, Images]) -> Network:
    """A network of depth 4 after a hundred steps on the whole training set."""
    built = build_network(config.architecture, (1, 10, 10), 10, seed=1).double()
    optimizer = torch.optim.Adam(built.parameters(), 1e-2)
    split = images[0].split
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(built(split.inputs), split.labels).backward()
        optimizer.step()
    return built


def perturbations(config: Config, **settings: object) -> Robustness:
    """Return perturbations of the named kinds only."""
    assert config.robustness is not None
    return replace(config.robustness, **(NONE | {"draws": 3, "attack_steps": 4} | settings))  # type: ignore[arg-type]


def measured(
    network: nn.Module, config: Config, images: tuple[Images, Images], layers: tuple[str, ...] = (), **settings: object
) -> list[PerturbationResult]:
    names = layers or network.layers  # type: ignore[assignment]
    return list(measure_robustness(network, names, *images, perturbations(config, **settings), config.measure))  # type: ignore[arg-type]


def by_hand(network: Network, train: Split, test: Split) -> tuple[list[float], float, float]:
    """Return D per layer, training and test accuracy, by the plain functions."""
    separations = measure_separation(network, train.inputs, train.labels, network.layers)
    accuracies = (evaluate(network, split.inputs, split.labels).accuracy for split in (train, test))
    return [value.fuzziness for value in separations.values()], *accuracies


def test_the_unperturbed_result_agrees_with_the_plain_functions(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    (clean, _) = measured(network, config, images, weights=[0.1])
    fuzziness, train, test = by_hand(network, images[0].split, images[1].split)
    assert clean.kind == "clean"
    assert clean.fuzziness == pytest.approx(fuzziness, rel=1e-9)
    assert clean.r == (pytest.approx(fit_law(fuzziness).pearson_r),)
    assert (clean.train_accuracy, clean.test_accuracy) == ((train,), (test,))


def test_batched_draws_agree_with_networks_perturbed_by_hand(
    network: Network, config: Config, images: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All draws at one strength, in one pass and in several."""
    for at_once in (1 << 30, 1):
        monkeypatch.setattr("equisep.robustness.perturbations.VALUES_AT_ONCE", at_once)
        result = measured(network, config, images, weights=[0.3])[1]
        generator = torch.Generator().manual_seed(3 * 1_000_003)
        noise = {
            name: torch.randn(3, *weight.shape, generator=generator).double()
            for name, weight in network.named_parameters()
            if weight.ndim > 1
        }
        expected = []
        for draw in range(3):
            perturbed = copy.deepcopy(network)
            with torch.no_grad():
                for name, weight in perturbed.named_parameters():
                    if weight.ndim > 1:
                        weight.add_(0.3 * weight.norm() / math.sqrt(weight.numel()) * noise[name][draw])
            expected.append(by_hand(perturbed, images[0].split, images[1].split))
        assert result.last_fuzziness == pytest.approx([fuzziness[-1] for fuzziness, *_ in expected], rel=1e-9)
        logarithms = torch.tensor([fuzziness for fuzziness, *_ in expected]).double().log()
        assert result.fuzziness == pytest.approx(logarithms.mean(0).exp().tolist(), rel=1e-6)
        assert result.train_accuracy == tuple(accuracy for _, accuracy, _ in expected)
        assert result.test_accuracy == tuple(accuracy for *_, accuracy in expected)


def test_noise_has_the_requested_strength(network: Network, config: Config, images: tuple[Images, Images]) -> None:
    """Noise of a thousand times the norm of each layer leaves a network worse than an untrained one."""
    weak, strong = measured(network, config, images, weights=[1e-6, 1e3])[1:]
    clean = measured(network, config, images, weights=[1e-6])[0]
    assert weak.last_fuzziness == pytest.approx(clean.last_fuzziness * 3, rel=1e-3)
    assert weak.test_accuracy == clean.test_accuracy * 3
    assert min(strong.last_fuzziness) > 5 * clean.last_fuzziness[0]
    assert max(strong.test_accuracy) < 0.35


def test_noise_on_one_layer_at_a_time(network: Network, config: Config, images: tuple[Images, Images]) -> None:
    clean, *results = measured(network, config, images, one_layer=[0.5])
    assert [result.layer for result in results] == [1, 2, 3, 4]
    changes = [[abs(value / clean.last_fuzziness[0] - 1) for value in result.last_fuzziness] for result in results]
    # The classifier is after the last measured layer.
    assert all(min(change) > 1e-3 for change in changes[:3])
    assert max(changes[3]) < 1e-12
    assert all(len(result.fuzziness) == 1 and result.test_accuracy == () for result in results)


def test_noise_on_images_agrees_with_images_perturbed_by_hand(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    result = measured(network, config, images, input_noise=[0.2])[1]
    expected = []
    for draw in range(3):
        noisy = []
        for index, part in enumerate(images):
            generator = torch.Generator().manual_seed(index * 1_000_003 + draw)
            noise = torch.randn(part.split.inputs.shape, generator=generator).double()
            pixels = ((part.split.inputs * 0.5 + 0.5).clamp(0, 1) + 0.2 * noise).clamp(0, 1)
            noisy.append(Split((pixels - 0.5) / 0.5, part.split.labels))
        expected.append(by_hand(network, *noisy))
    assert result.last_fuzziness == pytest.approx([fuzziness[-1] for fuzziness, *_ in expected], rel=1e-9)
    assert result.test_accuracy == tuple(accuracy for *_, accuracy in expected)


def test_corruptions_alternate_and_increase_with_severity(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    _, *results = measured(network, config, images, corruptions=[0.01, 0.5, 1.0], draws=5)
    means = [sum(result.test_accuracy) / 5 for result in results]
    assert means[0] > means[1] > means[2]
    # Five kinds of corruption with different effects.
    assert len(set(results[2].last_fuzziness)) == 5


def test_fgsm_takes_one_step_along_the_sign_of_the_gradient(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    result = measured(network, config, images, fgsm=[0.03])[1]
    evaluated = copy.deepcopy(network).eval()

    def attacked(part: Images) -> Split:
        pixels = (part.split.inputs * 0.5 + 0.5).clamp(0, 1).requires_grad_()
        cross_entropy(evaluated((pixels - 0.5) / 0.5), part.split.labels).backward()
        assert pixels.grad is not None
        moved = (pixels.detach() + 0.03 * pixels.grad.sign()).clamp(0, 1)
        return Split((moved - 0.5) / 0.5, part.split.labels)

    fuzziness, train, test = by_hand(network, *map(attacked, images))
    assert result.fuzziness == pytest.approx(fuzziness, rel=1e-6)
    assert (result.train_accuracy, result.test_accuracy) == ((train,), (test,))


def test_attacks_get_stronger_with_radius_and_steps(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    clean, *results = measured(network, config, images, fgsm=[0.01, 0.03], pgd=[0.01, 0.03], attack_steps=10)
    fgsm, pgd = results[:2], results[2:]
    for weak, strong in (fgsm, pgd):
        assert all(before >= after for before, after in zip(weak.test_accuracy, strong.test_accuracy, strict=True))
    assert max(pgd[1].test_accuracy) <= fgsm[1].test_accuracy[0] < clean.test_accuracy[0]
    # Training images have fewer draws where attacked_training_draws is below draws.
    assert [len(result.last_fuzziness) for result in pgd] == [3, 3]
    result = measured(network, config, images, pgd=[0.01], attacked_training_draws=1)[1]
    assert (len(result.last_fuzziness), len(result.test_accuracy)) == (1, 3)


def test_an_attack_without_correctly_classified_images_has_accuracy_zero(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    *_, first, second = measured(network, config, images, pgd=[0.5, 0.6])
    assert max(first.test_accuracy) == max(second.test_accuracy) == 0
    assert len(second.last_fuzziness) == 3


@pytest.mark.parametrize("family", ["resnet_two_layer", "fnn_no_batch_norm", "densenet"])
def test_any_network_is_measured_and_left_unchanged(family: str, config: Config, images: tuple[Images, Images]) -> None:
    other = compose_config([f"architecture={family}", "optimizer.learning_rate=1e-3"])
    network = build_network(other.architecture, (1, 10, 10), 10, seed=1).double().train()
    subsets = tuple(replace(part, split=Split(part.split.inputs[:60], part.split.labels[:60])) for part in images)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    settings = {"weights": [0.1], "input_noise": [0.1], "corruptions": [1.0], "fgsm": [0.01], "pgd": [0.01]}
    results = measured(network, config, subsets, draws=2, **settings)  # type: ignore[arg-type]
    assert [result.kind for result in results] == ["clean", *settings]
    fuzziness, train, _ = by_hand(network, subsets[0].split, subsets[1].split)
    assert results[0].fuzziness == pytest.approx(fuzziness, rel=1e-6)
    assert results[0].train_accuracy == (train,)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("robustness.weights=[-0.1]", "robustness.weights=.*positive"),
        ("robustness.pgd=[.1,.1]", "robustness.pgd=.*distinct"),
        ("robustness.corruptions=[1.5]", "robustness.corruptions=.*at most 1"),
        ("robustness.pgd=[2]", "robustness.pgd=.*at most 1"),
        ("robustness.draws=0", "robustness.draws=0: must be at least 1"),
        ("robustness.kinds=[pgd]", "kinds"),
    ],
)
def test_invalid_strengths_raise_an_error(override: str, pattern: str) -> None:
    with pytest.raises((ConfigError, HydraException), match=pattern):
        compose_config(["robustness=standard", override])


def test_a_robustness_config_without_strengths_raises_an_error() -> None:
    with pytest.raises(ConfigError, match="robustness=no strengths"):
        compose_config(["robustness=standard", *(f"robustness.{kind}=[]" for kind in ROBUSTNESS_KINDS)])


def test_projected_features_raise_an_error_before_training(configure: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="measure.components=100: robustness "):
        run_one(configure("robustness=standard", "measure.components=100"))


def test_a_damaged_robustness_file_is_named(configure: Callable[..., Config]) -> None:
    overrides = ["robustness=standard", *(f"robustness.{kind}=[]" for kind in ROBUSTNESS_KINDS if kind != "fgsm")]
    run = run_one(configure(*overrides)).run
    (file,) = run.path.glob("robustness/*.json")
    file.write_text(file.read_text()[:100])
    with pytest.raises(DamagedRun, match="remove the file"):
        run.load_robustness()
    record = read_run(run)
    assert "is damaged" in record.flaw


def test_the_area_under_a_curve_is_relative_to_the_unperturbed_network() -> None:
    def result(kind: str, strength: float, *accuracy: float) -> PerturbationResult:
        return PerturbationResult(kind, strength, None, (), (), (), (), accuracy)

    pgd = [result("pgd", 0.1, 0.3, 0.5), result("pgd", 0.2, 0.0, 0.0)]
    areas = accuracy_areas([result("clean", 0, 0.8), *pgd, result("fgsm", 1, 0.8)])
    assert areas["fgsm"] == pytest.approx(1)
    assert areas["pgd"] == pytest.approx((0.5 * (0.8 + 0.4) + 0.5 * 0.4) / 2 / 0.8)
    assert math.isnan(accuracy_areas([result("clean", 0, 0.0), result("fgsm", 1, 0.0)])["fgsm"])


def test_robustness_is_added_to_a_trained_run_without_training(configure: Callable[..., Config]) -> None:
    trained = run_one(configure("architecture.depth=4"))
    weights = trained.run.load_snapshot(2)
    overrides = ["robustness=standard", "robustness.draws=2", "robustness.test_images=50", "robustness.pgd=[.01]"]
    perturbed = run_one(configure("architecture.depth=4", *overrides))
    assert perturbed.run.id == trained.run.id
    assert perturbed.trained_epochs == 0
    assert all(torch.equal(value, weights[name]) for name, value in perturbed.run.load_snapshot(2).items())
    ((identity, robustness),) = perturbed.run.load_robustness().items()
    counts = {"clean": 1, "weights": 8, "one_layer": 4, "input_noise": 8, "corruptions": 8, "fgsm": 8, "pgd": 1}
    assert Counter(result.kind for result in robustness.results) == counts
    file = perturbed.run.path / "robustness" / f"{identity}.json"
    written = file.stat().st_mtime_ns
    run_one(configure("architecture.depth=4", *overrides))
    assert file.stat().st_mtime_ns == written
    run_one(configure("architecture.depth=4", *overrides, "robustness.seed=1", "robustness.pgd=[]"))
    assert len(perturbed.run.load_robustness()) == 2
