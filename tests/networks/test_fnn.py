from __future__ import annotations

import pytest
import torch

from equisep.config import Architecture, ConfigError, FeedForward
from equisep.networks import build_network


@pytest.mark.parametrize("depth", [2, 4, 8, 20])
def test_numbers_of_parameters_and_layers_are_those_of_the_paper(depth: int) -> None:
    network = build_network(FeedForward(family="fnn", depth=depth, width=100), (1, 10, 10), 10, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 10_300 * (depth - 1) + 1_010
    assert len(network.layers) == depth - 1
    assert network(torch.randn(5, 1, 10, 10)).shape == (5, 10)


def test_the_initialisation_depends_only_on_the_seed() -> None:
    shape = FeedForward(family="fnn", depth=4, width=10)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, two, other = (build_network(shape, (1, 2, 2), 3, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_an_unknown_family_raises_an_error() -> None:
    with pytest.raises(ConfigError, match="family=transformer"):
        build_network(Architecture(family="transformer"), (1, 2, 2), 3, seed=0)


def test_widths_batch_norm_and_activation_follow_the_config() -> None:
    shaped = FeedForward(family="fnn", depth=None, width=None, widths=[7, 3, 5])
    network = build_network(shaped, (1, 2, 2), 3, seed=0)
    assert [tuple(layer[0].weight.shape) for layer in network.hidden] == [(7, 4), (3, 7), (5, 3)]
    bare = build_network(FeedForward(family="fnn", depth=3, width=4, batch_norm=False), (1, 2, 2), 3, seed=0)
    assert [[type(module).__name__ for module in layer] for layer in bare.hidden] == [["Linear", "ReLU"]] * 2
    linear = build_network(FeedForward(family="fnn", depth=3, width=4, activation="identity"), (1, 2, 2), 3, seed=0)
    assert [[type(module).__name__ for module in layer] for layer in linear.hidden] == [["Linear", "BatchNorm1d"]] * 2
    assert not network.blocks


def test_layer_norm_replaces_batch_norm_and_hes_initialisation_keeps_the_scale() -> None:
    shape = FeedForward(family="fnn", depth=3, width=4, batch_norm=False, norm="layer")
    network = build_network(shape, (1, 2, 2), 3, seed=0)
    assert [[type(module).__name__ for module in layer] for layer in network.hidden] == [
        ["Linear", "LayerNorm", "ReLU"]
    ] * 2
    deep = FeedForward(family="fnn", depth=21, width=1000, batch_norm=False, initialisation="kaiming")
    network = build_network(deep, (1, 32, 32), 10, seed=0)
    for block in network.hidden:
        assert float(block[0].weight.std()) == pytest.approx((2 / block[0].in_features) ** 0.5, rel=0.01)
        assert not block[0].bias.any()
    images = torch.randn(50, 1, 32, 32)
    features = network.hidden(images.flatten(1))
    assert float(features.square().mean()) == pytest.approx(1.0, rel=0.5)


def test_permuted_layers_are_the_same_in_another_order() -> None:
    network = build_network(FeedForward(family="fnn", depth=8, width=10), (1, 2, 2), 3, seed=0).eval()
    one, again, other = (network.permuted(seed) for seed in (0, 0, 1))
    assert one.hidden[0] is network.hidden[0]
    assert {id(block) for block in one.hidden} == {id(block) for block in network.hidden}
    assert [id(block) for block in one.hidden] == [id(block) for block in again.hidden]
    assert len({tuple(id(block) for block in each.hidden) for each in (network, one, other)}) == 3
    assert one.layers == network.layers
    images = torch.randn(5, 1, 2, 2)
    assert not torch.allclose(one(images), network(images))
    # Of two layers, one half of all draws are their own order.
    short = build_network(FeedForward(family="fnn", depth=4, width=10), (1, 2, 2), 3, seed=0)
    for seed in range(8):
        assert [id(block) for block in short.permuted(seed).hidden[1:]] == [id(block) for block in short.hidden[:0:-1]]
    shortest = build_network(FeedForward(family="fnn", depth=3, width=10), (1, 2, 2), 3, seed=0)
    with pytest.raises(ValueError, match="no other order"):
        shortest.permuted(0)
    with pytest.raises(ValueError, match="different widths and cannot be permuted"):
        build_network(
            FeedForward(family="fnn", depth=None, width=None, widths=[3, 4, 5]), (1, 2, 2), 3, seed=0
        ).permuted(0)
