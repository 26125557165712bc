"""RobustnessResults networks: batched over draws the same as one by one by hand; what an attack may and may not do."""

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
    """350 training and 150 test images in float64; in batches of 100 and, of the last, 50."""
    parts = ((fashion.train, 350), (fashion.test, 150))
    half = torch.tensor([0.5], dtype=torch.float64)
    train, test = (
        Images(Split(part.inputs[:count].double(), part.labels[:count]), half, half) for part, count in parts
    )
    return train, test


@pytest.fixture(scope="module")
def network(config: Config, images: tuple[Images, Images]) -> Network:
    """A network of depth 4 that has learnt something, by a hundred steps on the whole set."""
    built = build_network(config.architecture, (1, 10, 10), 10, seed=1).double()
    optimizer = torch.optim.Adam(built.parameters(), 1e-2)
    split = images[0].split
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(built(split.inputs), split.labels).backward()
        optimizer.step()
    return built


def asked(config: Config, **settings: object) -> Robustness:
    """Return perturbations of the kinds that are named alone."""
    assert config.robustness is not None
    return replace(config.robustness, **(NONE | {"draws": 3, "attack_steps": 4} | settings))  # type: ignore[arg-type]


def measured(
    network: nn.Module, config: Config, images: tuple[Images, Images], layers: tuple[str, ...] = (), **settings: object
) -> list[PerturbationResult]:
    names = layers or network.layers  # type: ignore[assignment]
    return list(measure_robustness(network, names, *images, asked(config, **settings), config.measure))  # type: ignore[arg-type]


def by_hand(network: Network, train: Split, test: Split) -> tuple[list[float], float, float]:
    """Return D per layer and both accuracies, by the plain functions."""
    separations = measure_separation(network, train.inputs, train.labels, network.layers)
    accuracies = (evaluate(network, split.inputs, split.labels).accuracy for split in (train, test))
    return [value.fuzziness for value in separations.values()], *accuracies


def test_unperturbed_it_is_what_the_plain_measure_says(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    (clean, _) = measured(network, config, images, weights=[0.1])
    fuzziness, train, test = by_hand(network, images[0].split, images[1].split)
    assert clean.kind == "clean"
    assert clean.fuzziness == pytest.approx(fuzziness, rel=1e-9)
    assert clean.r == (pytest.approx(fit_law(fuzziness).pearson_r),)
    assert (clean.train_accuracy, clean.test_accuracy) == ((train,), (test,))


def test_draws_together_are_each_what_a_network_with_such_weights_is(
    network: Network, config: Config, images: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All draws at one strength, against each network perturbed and measured alone; also in several goes."""
    for at_once in (1 << 30, 1):
        monkeypatch.setattr("equisep.robustness.perturbations.VALUES_AT_ONCE", at_once)
        cell = measured(network, config, images, weights=[0.3])[1]
        generator = torch.Generator().manual_seed(3 * 1_000_003)
        noise = {
            name: torch.randn(3, *weight.shape, generator=generator).double()
            for name, weight in network.named_parameters()
            if weight.ndim > 1
        }
        found = []
        for draw in range(3):
            perturbed = copy.deepcopy(network)
            with torch.no_grad():
                for name, weight in perturbed.named_parameters():
                    if weight.ndim > 1:
                        weight.add_(0.3 * weight.norm() / math.sqrt(weight.numel()) * noise[name][draw])
            found.append(by_hand(perturbed, images[0].split, images[1].split))
        assert cell.last_fuzziness == pytest.approx([fuzziness[-1] for fuzziness, *_ in found], rel=1e-9)
        logarithms = torch.tensor([fuzziness for fuzziness, *_ in found]).double().log()
        assert cell.fuzziness == pytest.approx(logarithms.mean(0).exp().tolist(), rel=1e-6)
        assert cell.train_accuracy == tuple(accuracy for _, accuracy, _ in found)
        assert cell.test_accuracy == tuple(accuracy for *_, accuracy in found)


def test_noise_has_the_strength_asked_for(network: Network, config: Config, images: tuple[Images, Images]) -> None:
    """A layer whose noise is a thousand times its norm is noise: D as of a network never trained, and worse."""
    weak, strong = measured(network, config, images, weights=[1e-6, 1e3])[1:]
    (clean,) = (cell for cell in measured(network, config, images, weights=[1e-6]) if cell.kind == "clean")
    assert weak.last_fuzziness == pytest.approx(clean.last_fuzziness * 3, rel=1e-3)
    assert weak.test_accuracy == clean.test_accuracy * 3
    assert min(strong.last_fuzziness) > 5 * clean.last_fuzziness[0]
    assert max(strong.test_accuracy) < 0.35


def test_one_layer_at_a_time(network: Network, config: Config, images: tuple[Images, Images]) -> None:
    clean, *cells = measured(network, config, images, one_layer=[0.5])
    assert [cell.layer for cell in cells] == [1, 2, 3, 4]
    changes = [[abs(value / clean.last_fuzziness[0] - 1) for value in cell.last_fuzziness] for cell in cells]
    # The classifier comes after the last measured layer.
    assert all(min(change) > 1e-3 for change in changes[:3])
    assert max(changes[3]) < 1e-12
    assert all(len(cell.fuzziness) == 1 and cell.test_accuracy == () for cell in cells)


def test_noise_on_images(network: Network, config: Config, images: tuple[Images, Images]) -> None:
    cell = measured(network, config, images, input_noise=[0.2])[1]
    found = []
    for draw in range(3):
        noisy = []
        for place, part in enumerate(images):
            generator = torch.Generator().manual_seed(place * 1_000_003 + draw)
            noise = torch.randn(part.split.inputs.shape, generator=generator).double()
            pixels = ((part.split.inputs * 0.5 + 0.5).clamp(0, 1) + 0.2 * noise).clamp(0, 1)
            noisy.append(Split((pixels - 0.5) / 0.5, part.split.labels))
        found.append(by_hand(network, *noisy))
    assert cell.last_fuzziness == pytest.approx([fuzziness[-1] for fuzziness, *_ in found], rel=1e-9)
    assert cell.test_accuracy == tuple(accuracy for *_, accuracy in found)


def test_corruptions_take_turns_and_grow_with_severity(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    _, *cells = measured(network, config, images, corruptions=[0.01, 0.5, 1.0], draws=5)
    means = [sum(cell.test_accuracy) / 5 for cell in cells]
    assert means[0] > means[1] > means[2]
    # Five kinds, each of its own effect.
    assert len(set(cells[2].last_fuzziness)) == 5


def test_one_step_of_an_attack_is_the_sign_of_the_gradient(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    cell = measured(network, config, images, fgsm=[0.03])[1]
    evaluated = copy.deepcopy(network).eval()

    def attacked(part: Images) -> Split:
        pixels = (part.split.inputs * 0.5 + 0.5).clamp(0, 1).requires_grad_()
        cross_entropy(evaluated((pixels - 0.5) / 0.5), part.split.labels).backward()
        assert pixels.grad is not None
        moved = (pixels.detach() + 0.03 * pixels.grad.sign()).clamp(0, 1)
        return Split((moved - 0.5) / 0.5, part.split.labels)

    fuzziness, train, test = by_hand(network, *map(attacked, images))
    assert cell.fuzziness == pytest.approx(fuzziness, rel=1e-6)
    assert (cell.train_accuracy, cell.test_accuracy) == ((train,), (test,))


def test_attacks_get_worse_with_their_radius_and_with_steps(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    clean, *cells = measured(network, config, images, fgsm=[0.01, 0.03], pgd=[0.01, 0.03], attack_steps=10)
    one, several = cells[:2], cells[2:]
    for weak, strong in (one, several):
        assert all(low >= high for low, high in zip(weak.test_accuracy, strong.test_accuracy, strict=True))
    assert max(several[1].test_accuracy) <= one[1].test_accuracy[0] < clean.test_accuracy[0]
    # Attacked training images are drawn less often.
    assert [len(cell.last_fuzziness) for cell in several] == [3, 3]
    less = measured(network, config, images, pgd=[0.01], attacked_training_draws=1)[1]
    assert (len(less.last_fuzziness), len(less.test_accuracy)) == (1, 3)


def test_where_no_image_stands_there_is_nothing_to_attack(
    network: Network, config: Config, images: tuple[Images, Images]
) -> None:
    *_, hopeless, worse = measured(network, config, images, pgd=[0.5, 0.6])
    assert max(hopeless.test_accuracy) == max(worse.test_accuracy) == 0
    assert len(worse.last_fuzziness) == 3


@pytest.mark.parametrize("family", ["resnet_two_layer", "fnn_no_batch_norm", "densenet"])
def test_any_network_is_measured_and_left_as_it_was(family: str, config: Config, images: tuple[Images, Images]) -> None:
    other = compose_config([f"architecture={family}", "optimizer.learning_rate=1e-3"])
    network = build_network(other.architecture, (1, 10, 10), 10, seed=1).double().train()
    few = tuple(replace(part, split=Split(part.split.inputs[:60], part.split.labels[:60])) for part in images)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    settings = {"weights": [0.1], "input_noise": [0.1], "corruptions": [1.0], "fgsm": [0.01], "pgd": [0.01]}
    cells = measured(network, config, few, draws=2, **settings)  # type: ignore[arg-type]
    assert [cell.kind for cell in cells] == ["clean", *settings]
    fuzziness, train, _ = by_hand(network, few[0].split, few[1].split)
    assert cells[0].fuzziness == pytest.approx(fuzziness, rel=1e-6)
    assert cells[0].train_accuracy == (train,)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("robustness.weights=[-0.1]", "robustness.weights=.*give positive, finite strengths, each once"),
        ("robustness.pgd=[.1,.1]", "robustness.pgd=.*each once"),
        ("robustness.corruptions=[1.5]", "robustness.corruptions=.*up to 1"),
        ("robustness.pgd=[2]", "robustness.pgd=.*up to 1"),
        ("robustness.draws=0", "robustness.draws=0: give at least 1"),
        ("robustness.kinds=[pgd]", "kinds"),
    ],
)
def test_strengths_that_make_no_sense_are_refused(override: str, words: str) -> None:
    with pytest.raises((ConfigError, HydraException), match=words):
        compose_config(["robustness=standard", override])
    with pytest.raises(ConfigError, match="robustness=no strengths"):
        compose_config(["robustness=standard", *(f"robustness.{kind}=[]" for kind in ROBUSTNESS_KINDS)])


def test_projected_features_are_refused_before_work(configure: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="measure.components=100: robustness is of whole features"):
        run_one(configure("robustness=standard", "measure.components=100"))


def test_a_damaged_file_is_named(configure: Callable[..., Config]) -> None:
    few = ["robustness=standard", *(f"robustness.{kind}=[]" for kind in ROBUSTNESS_KINDS if kind != "fgsm")]
    run = run_one(configure(*few)).run
    (file,) = run.path.glob("robustness/*.json")
    file.write_text(file.read_text()[:100])
    with pytest.raises(DamagedRun, match="remove the file"):
        run.load_robustness()
    record = read_run(run)
    assert "is damaged" in record.flaw


def test_the_area_under_a_curve_is_relative_to_the_unperturbed_network() -> None:
    def cell(kind: str, strength: float, *accuracy: float) -> PerturbationResult:
        return PerturbationResult(kind, strength, None, (), (), (), (), accuracy)

    cells = [cell("clean", 0, 0.8), cell("pgd", 0.1, 0.3, 0.5), cell("pgd", 0.2, 0.0, 0.0), cell("fgsm", 1, 0.8)]
    areas = accuracy_areas(cells)
    assert areas["fgsm"] == pytest.approx(1)
    assert areas["pgd"] == pytest.approx((0.5 * (0.8 + 0.4) + 0.5 * 0.4) / 2 / 0.8)
    assert math.isnan(accuracy_areas([cell("clean", 0, 0.0), cell("fgsm", 1, 0.0)])["fgsm"])


def test_robustness_is_a_measure_beneath_a_run_and_trains_nothing(configure: Callable[..., Config]) -> None:
    trained = run_one(configure("architecture.depth=4"))
    weights = trained.run.load_snapshot(2)
    few = ["robustness=standard", "robustness.draws=2", "robustness.test_images=50", "robustness.pgd=[.01]"]
    perturbed = run_one(configure("architecture.depth=4", *few))
    assert perturbed.run.id == trained.run.id
    assert perturbed.trained_epochs == 0
    assert all(torch.equal(value, weights[name]) for name, value in perturbed.run.load_snapshot(2).items())
    ((identity, found),) = perturbed.run.load_robustness().items()
    kinds = [cell.kind for cell in found.results]
    counts = {"clean": 1, "weights": 8, "one_layer": 4, "input_noise": 8, "corruptions": 8, "fgsm": 8, "pgd": 1}
    assert Counter(kinds) == counts
    written = (perturbed.run.path / "robustness" / f"{identity}.json").stat().st_mtime_ns
    run_one(configure("architecture.depth=4", *few))
    assert (perturbed.run.path / "robustness" / f"{identity}.json").stat().st_mtime_ns == written
    run_one(configure("architecture.depth=4", *few, "robustness.seed=1", "robustness.pgd=[]"))
    assert len(perturbed.run.load_robustness()) == 2
