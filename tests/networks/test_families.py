"""VGG, AlexNet, ResNet, DenseNet: numbers of layers and blocks, measured modules, images that are too small."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from equisep.config import Architecture, ConfigError, compose_config
from equisep.measures import measure_separation
from equisep.networks import build_network, forward_operations, outline_network

GREY, COLOUR = (1, 32, 32), (3, 32, 32)


def architecture(name: str, *overrides: str) -> Architecture:
    return compose_config([f"architecture={name}", "optimizer.learning_rate=1e-3", *overrides]).architecture


@pytest.mark.parametrize(
    ("name", "layers", "blocks", "weighted"),
    [
        ("vgg11", 10, 0, 11),
        ("vgg13", 12, 0, 13),
        ("vgg16", 15, 0, 16),
        ("vgg19", 18, 0, 19),
        ("alexnet", 7, 0, 8),
        ("resnet_two_layer", 8, 4, 9),
        ("resnet_three_layer", 12, 4, 13),
        ("resnet_mixed", 10, 4, 11),
        ("densenet", 16, 4, 21),
        ("narrow_wide", 7, 0, 8),
    ],
)
def test_layers_blocks_and_layers_with_weights_are_those_of_the_paper(
    name: str, layers: int, blocks: int, weighted: int
) -> None:
    """With the input VGG13 has 13 points of the law, AlexNet 8, the residual networks 9, 13, 11, or 5 blocks."""
    network = outline_network(architecture(name), GREY, 10)
    assert (len(network.layers), len(network.blocks)) == (layers, blocks)
    assert len(network.parameter_layers()) == len(list(network.parameters()))
    assert sorted(set(network.parameter_layers())) == list(range(1, weighted + 1))


@pytest.mark.parametrize(
    ("name", "multiplier", "image", "shapes"),
    [
        ("vgg13", 1.0, GREY, [(64, 16, 5, 5), (64, 64, 5, 5), (128, 64, 5, 5), (128, 128, 5, 5), (256, 128, 5, 5)]),
        ("vgg13", 0.125, COLOUR, [(8, 48, 5, 5), (8, 8, 5, 5), (16, 8, 5, 5), (16, 16, 5, 5), (32, 16, 5, 5)]),
        ("alexnet", 1.0, GREY, [(64, 32, 5, 5), (192, 64, 5, 5), (384, 192, 5, 5), (256, 384, 5, 5), (256, 256, 5, 5)]),
    ],
)
def test_convolutions_and_classifier_have_the_widths_of_the_paper(
    name: str, multiplier: float, image: tuple[int, ...], shapes: list[tuple[int, ...]]
) -> None:
    network = outline_network(architecture(name, f"architecture.width_multiplier={multiplier}"), image, 10)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [tuple(convolution.weight.shape) for convolution in convolutions[:5]] == shapes
    linears = [module.weight.shape for module in network.modules() if isinstance(module, nn.Linear)]
    hidden = round(4096 * multiplier)
    pooled = round(512 * multiplier) if name == "vgg13" else 4096
    assert [tuple(shape) for shape in linears] == [(hidden, pooled), (hidden, hidden), (10, hidden)]
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())
    assert norms == len(convolutions) + 2


def test_residual_networks_keep_eight_channels_and_have_no_bias() -> None:
    network = outline_network(architecture("resnet_mixed"), GREY, 10)
    kernels = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(8, 8, 5, 5)] * 6 + [(8, 8, 3, 3)] * 4
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
    assert tuple(network.classifier.weight.shape) == (10, 8 * 32 * 32)  # type: ignore[union-attr]
    colour = outline_network(architecture("resnet_mixed"), COLOUR, 10)
    assert colour(torch.empty(2, *COLOUR, device="meta")).shape == (2, 10)


def test_a_block_ends_after_the_addition_and_layers_after_each_relu() -> None:
    network = build_network(architecture("resnet_two_layer"), (1, 6, 6), 3, seed=0).eval()
    outputs: dict[str, torch.Tensor] = {}
    for name in network.layers:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    images = torch.randn(4, 1, 6, 6)
    network(images)
    block = network.get_submodule("body.0")
    repeated = images.repeat(1, 8, 1, 1)
    inner = torch.relu(block.inner[0][1](block.inner[0][0](repeated)))
    torch.testing.assert_close(outputs["body.0.inner.0"], inner)
    torch.testing.assert_close(outputs["body.0"], torch.relu(repeated + block.last[1](block.last[0](inner))))
    assert set(network.blocks) < set(network.layers)


def test_a_dense_layer_keeps_its_input_and_transitions_halve_the_image() -> None:
    network = build_network(architecture("densenet"), (1, 16, 16), 3, seed=0)
    shapes = {}
    for name in network.layers:
        network.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: shapes.update({name: (i[0].shape[1], *o.shape[1:])})
        )
    network(torch.randn(2, 1, 16, 16))
    assert [after for _, after, *_ in shapes.values()][:5] == [36, 48, 60, 72, 48]
    assert [size for *_, size in shapes.values()] == [16] * 4 + [8] * 4 + [4] * 4 + [2] * 4
    assert all(after - before == 12 for before, after, *_ in shapes.values())


@pytest.mark.parametrize("name", ["vgg11", "alexnet", "resnet_mixed", "densenet"])
def test_every_named_layer_and_block_can_be_measured(name: str) -> None:
    scaled = [] if name.startswith("resnet") else ["architecture.width_multiplier=0.125"]
    network = build_network(architecture(name, *scaled), COLOUR, 3, seed=0)
    images, labels = torch.randn(30, *COLOUR), torch.arange(30) % 3
    for names in (network.layers, network.blocks):
        measured = measure_separation(network, images, labels, names, batch_size=10)
        assert list(measured) == ["input", *names]


@pytest.mark.parametrize(
    ("name", "size", "pattern"),
    [
        ("vgg13", 10, "dataset.size=10: VGG .* at least 32×32"),
        ("alexnet", 10, "dataset.size=10: AlexNet .* at least 16×16"),
        ("densenet", 4, "dataset.size=4: 4 dense blocks need at least 8×8"),
    ],
)
def test_images_that_are_too_small_raise_a_one_line_error(name: str, size: int, pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern) as raised:
        outline_network(architecture(name), (1, size, size), 10)
    assert "\n" not in str(raised.value)


def test_operations_are_those_of_products_and_convolutions() -> None:
    shallow = architecture("fnn", "architecture.depth=3")
    assert forward_operations(outline_network(shallow, (1, 10, 10), 10), (1, 10, 10)) == 2 * (2 * 100 * 100 + 1000)
    first, second = (
        forward_operations(outline_network(architecture(name), GREY, 10), GREY)
        for name in ("resnet_two_layer", "resnet_mixed")
    )
    assert first == 2 * (8 * 8 * 8 * 9 * 1024 + 81920)
    assert second == 2 * (6 * 8 * 8 * 25 * 1024 + 4 * 8 * 8 * 9 * 1024 + 81920)


def test_a_preceding_normalisation_belongs_to_its_convolution() -> None:
    network = outline_network(architecture("densenet"), GREY, 10)
    layer = dict(zip((name for name, _ in network.named_parameters()), network.parameter_layers(), strict=True))
    assert layer["stem.weight"] == 1
    assert layer["body.0.0.grow.0.weight"] == layer["body.0.0.grow.2.weight"] == 2
    assert layer["last.0.bias"] == layer["classifier.bias"] == 21
