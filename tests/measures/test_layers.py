from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from equisep.data import Data
from equisep.measures import evaluate, measure_separation, separation_fuzziness
from equisep.networks import FeedForwardNetwork


@pytest.fixture
def network() -> FeedForwardNetwork:
    return FeedForwardNetwork(inputs=100, classes=10, widths=[30] * 3)


def test_layers_are_measured_with_batch_statistics_in_stored_order(network: FeedForwardNetwork, fashion: Data) -> None:
    inputs, labels = fashion.train.inputs, fashion.train.labels
    measured = measure_separation(network, inputs, labels, network.layers)
    assert list(measured) == ["input", "hidden.0", "hidden.1", "hidden.2"]
    twin = copy.deepcopy(network).train()
    first = torch.cat([twin.hidden[0](batch.flatten(1)) for batch in inputs.split(100)])
    assert measured["input"].fuzziness == pytest.approx(36.8143, rel=1e-5)
    assert measured["hidden.0"].fuzziness == pytest.approx(separation_fuzziness(first, labels), rel=1e-9)


def test_running_statistics_can_be_used(network: FeedForwardNetwork, fashion: Data) -> None:
    inputs, labels = fashion.train.inputs, fashion.train.labels
    measured = measure_separation(network, inputs, labels, ["hidden.1"], batch_norm="running")
    expected = network.eval().hidden[:2](inputs.flatten(1))
    assert measured["hidden.1"].fuzziness == pytest.approx(separation_fuzziness(expected, labels), rel=1e-6)


def test_two_passes_agree_with_one(network: FeedForwardNetwork, fashion: Data) -> None:
    inputs, labels = fashion.train.inputs, fashion.train.labels
    one = measure_separation(network, inputs, labels, network.layers)
    two = measure_separation(network, inputs, labels, network.layers, memory_limit=0.0)
    for name, value in one.items():
        assert two[name].fuzziness == pytest.approx(value.fuzziness, rel=1e-10)
        assert two[name].rank == value.rank


def test_the_network_is_left_unchanged(network: FeedForwardNetwork, fashion: Data) -> None:
    network.hidden[1].eval()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    random = torch.random.get_rng_state()
    measure_separation(network, fashion.train.inputs, fashion.train.labels, network.layers)
    evaluate(network, fashion.train.inputs, fashion.train.labels)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in network.modules())


def test_any_module_can_be_measured_without_dropout_and_before_in_place_operations(fashion: Data) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(100, 20), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(20, 10))
    inputs, labels = fashion.train.inputs, fashion.train.labels
    measured = measure_separation(network, inputs, labels, ["1", "3"])
    linear = network[1](inputs.flatten(1)).detach()
    assert measured["1"].fuzziness == pytest.approx(separation_fuzziness(linear, labels), rel=1e-6)
    assert measured["3"].fuzziness == pytest.approx(separation_fuzziness(linear.relu(), labels), rel=1e-6)


def test_evaluation_is_the_mean_over_images(network: FeedForwardNetwork, fashion: Data) -> None:
    inputs, labels = fashion.test.inputs, fashion.test.labels
    result = evaluate(network, inputs, labels, batch_size=999)
    logits = network.eval()(inputs)
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.ReLU()
        self.idle = nn.ReLU()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.used(self.used(inputs))


@pytest.mark.parametrize(
    ("layers", "batch_size", "pattern"),
    [
        (["nowhere"], 100, "layer 'nowhere': no such module.*used, idle"),
        (["used"], 100, "more than once"),
        (["idle"], 100, "does not run"),
        (["used", "used"], 100, "layer 'used': listed"),
        (["used"], 0, "batch_size=0"),
    ],
)
def test_invalid_arguments_raise_an_error(layers: list[str], batch_size: int, pattern: str) -> None:
    inputs, labels = torch.randn(75, 4), torch.arange(75) % 3
    with pytest.raises(ValueError, match=pattern):
        measure_separation(Twice(), inputs, labels, layers, batch_size=batch_size)


def test_batch_normalisation_settings_are_validated(network: FeedForwardNetwork) -> None:
    inputs, labels = torch.randn(75, 100), torch.arange(75) % 3
    with pytest.raises(ValueError, match="batch_size=37"):
        measure_separation(network, inputs, labels, network.layers, batch_size=37)
    with pytest.raises(ValueError, match="batch_norm='bacth': choose one of batch, running"):
        measure_separation(network, inputs, labels, network.layers, batch_norm="bacth")  # type: ignore[arg-type]
    bare = nn.Sequential(nn.BatchNorm1d(100, track_running_stats=False))
    with pytest.raises(ValueError, match="'0' has no running statistics"):
        measure_separation(bare, inputs, labels, ["0"], batch_norm="running")
    with pytest.raises(ValueError, match="layer 'input': reserved"):
        measure_separation(nn.ModuleDict({"input": nn.ReLU()}), inputs, labels, ["input"])


def test_nan_features_raise_an_error() -> None:
    inputs = torch.full((10, 2), float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        measure_separation(nn.ReLU(), inputs, torch.arange(10) % 2, [])


def test_features_are_projected_on_principal_components_of_the_training_features(fashion: Data) -> None:
    network = FeedForwardNetwork(inputs=100, classes=10, widths=[30, 12])
    train, test = fashion.train, fashion.test
    layers = ["hidden.0", "hidden.1"]
    measured = measure_separation(
        network,
        test.inputs[:500],
        test.labels[:500],
        layers,
        batch_norm="running",
        components=12,
        principal_inputs=train.inputs,
    )
    network.eval()
    for name, value in measured.items():
        depth = ["input", *layers].index(name)
        training, tested = (
            network.hidden[:depth](split.inputs.flatten(1)).detach().double() for split in (train, test)
        )
        mean = training.mean(dim=0)
        _, _, directions = torch.linalg.svd(training - mean, full_matrices=False)
        expected = (tested[:500] - mean) @ directions[:12].T if depth < 2 else tested[:500]
        assert value.fuzziness == pytest.approx(separation_fuzziness(expected, test.labels[:500]), rel=1e-5)
    with pytest.raises(ValueError, match="components=0"):
        measure_separation(network, train.inputs, train.labels, layers, components=0)


def test_a_layer_without_a_row_per_image_is_refused() -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Identity()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.first(inputs[::2])
            return outputs

    with pytest.raises(ValueError, match=r"layer 'first' has features of shape \(50, 4\) for 100 images"):
        measure_separation(Halved(), torch.randn(200, 4), torch.arange(200) % 5, ["first"])
