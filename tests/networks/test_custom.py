"""Networks of the user's own: layers by rule or name, what is no classifier refused, trained like ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from equisep.config import ConfigError, compose_config
from equisep.execution.train import execute
from equisep.measures import choose_layers
from equisep.networks import build_network, outline_network
from equisep.store import Run, load_runs
from tests.conftest import run_one

NETS = """
import random

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, classes, width=8, depth=3, dropout=0.0):
        super().__init__()
        sizes = [torch.Size(input_shape).numel(), *[width] * (depth - 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in zip(sizes, sizes[1:])
        )
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, images):
        features = images.flatten(1)
        for layer in self.layers:
            features = layer(features)
        return self.head(features)


class Convolutional(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(256, classes)

    def forward(self, images):
        return self.head(self.body(images))


class NoLogits(Net):
    def forward(self, images):
        return super().forward(images).sum(dim=1)


class Two(Net):
    def forward(self, images):
        return super().forward(images), images


class Lazy(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, images):
        return self.head(self.body(images))


class Drawn(Net):
    def __init__(self, input_shape, classes):
        super().__init__(input_shape, classes)
        self.head.weight.data *= random.random() + np.random.rand()


class Failing(Net):
    def forward(self, images):
        return self.head(images)


class Ending(Net):
    def forward(self, images):
        raise SystemExit("bye")


class FailingInTraining(Net):
    def forward(self, images):
        if self.training and len(images) > 2:
            raise RuntimeError("this batch is odd\\nand more")
        return super().forward(images)


class Detached(Net):
    def forward(self, images):
        return super().forward(images).detach()


class Whole(Net):
    def forward(self, images):
        return super().forward(images).round().long()


class Single(nn.Module):
    def __init__(self, outputs=10):
        super().__init__()
        self.head = nn.Linear(100, outputs)

    def forward(self, images):
        return self.head(images.flatten(1))


def no_module(**arguments):
    return arguments
"""
WORDS = ["architecture=custom", "architecture.target=own_custom_nets.Net", "optimizer.learning_rate=1e-3"]
SMOKE = [*WORDS, "training=smoke", "tracking=off"]


@pytest.fixture
def own(own_modules: Callable[..., Path]) -> Path:
    return own_modules(own_custom_nets=NETS)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("auto", ("layers.0.2", "layers.1.2")),
        ("[layers.1]", ("layers.1",)),
        ("[layers.*.0]", ("layers.0.0", "layers.1.0")),
    ],
)
def test_layers_are_found_or_named(own: Path, layers: str, names: tuple[str, ...]) -> None:
    architecture = compose_config([*WORDS, f"architecture.layers={layers}"]).architecture
    assert outline_network(architecture, (1, 10, 10), 10, choose_layers).layers == names
    # Names are those of the module itself, which is built.
    network = build_network(architecture, (1, 10, 10), 10, seed=1)
    assert set(names) <= set(dict(network.named_modules()))
    assert torch.equal(network.head.weight, build_network(architecture, (1, 10, 10), 10, seed=1).head.weight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["architecture.target=own_custom_nets.NoLogits"], r"must give logits of shape \(2, 10\).* not \(2,\)"),
        (
            ["architecture.target=own_custom_nets.Failing"],
            r"fails on images of shape \(2, 1, 10, 10\): .* \(own_custom_nets.py, line \d+\)$",
        ),
        (["architecture.target=own_custom_nets.Ending"], r"calls sys.exit \(own_custom_nets.py, line \d+\)$"),
        (["architecture.target=own_custom_nets.Detached"], "its output in training is of torch.float32 without grad"),
        (["architecture.target=own_custom_nets.Whole"], "its output in training is of torch.int64 without gradients"),
        (["architecture.target=own_custom_nets.Single"], "no blocks, and no modules with weights but the classifier"),
        (
            ["architecture.target=own_custom_nets.Single", "architecture.arguments.outputs=7"],
            r"must give logits of shape \(2, 10\).* not \(2, 7\)",
        ),
        (["architecture.target=own_custom_nets.Two"], "its output is a tuple, not a tensor of logits"),
        (["architecture.target=own_custom_nets.no_module"], "makes a dict, not a torch.nn.Module"),
        (["architecture.target=torch.nn.ReLU"], "has no parameters to train"),
        (["architecture.layers=[lairs]"], "layer 'lairs': no such module; choose from"),
        (["measure.view=block"], "architecture.family=custom has no blocks"),
        (["training.phases=[{start: 0, first: 1, last: 9}]"], "training.phases: last=9"),
        (["compute.engine=native"], "compute.engine=native: has no kernels for family=custom"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_starts(own: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        execute([compose_config([*SMOKE, *words, f"results={own}"])])
    assert "\n" not in str(raised.value)
    assert not (own / "runs").exists()


def test_initial_values_drawn_elsewhere_depend_on_the_seed_too(own: Path) -> None:
    architecture = compose_config([*WORDS, "architecture.target=own_custom_nets.Drawn"]).architecture
    first, again, other = (build_network(architecture, (1, 10, 10), 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_lazy_module_takes_its_shapes_from_the_first_pass(own: Path) -> None:
    words = [*WORDS, "architecture.target=own_custom_nets.Lazy"]
    architecture = compose_config(words).architecture
    first, again, other = (build_network(architecture, (1, 10, 10), 10, seed=seed) for seed in (1, 1, 2))
    assert first.body[1].weight.shape == (6, 100)
    assert torch.equal(first.body[1].weight, again.body[1].weight)
    assert not torch.equal(first.body[1].weight, other.body[1].weight)


def test_an_error_of_its_own_in_training_is_one_line_and_a_traceback_in_the_log(own: Path) -> None:
    config = compose_config([*SMOKE, "architecture.target=own_custom_nets.FailingInTraining", f"results={own}"])
    message = r"fails in training: this batch is odd \(own_custom_nets.py, line \d+\); the traceback is in .*/run.log$"
    with pytest.raises(ConfigError, match=message):
        execute([config])
    (log,) = own.glob("runs/*/run.log")
    assert "Traceback" in log.read_text()
    assert load_runs(own)["state"].unique().tolist() == ["failed"]


def test_arguments_may_be_given_together(own: Path) -> None:
    together = compose_config([*WORDS, "architecture.arguments={width: 5, depth: 4}"]).architecture
    assert together.arguments == {"width": 5, "depth": 4}


def test_random_numbers_depend_on_seed_and_epoch_alone(own: Path) -> None:
    words = [*SMOKE, "architecture.arguments.dropout=0.2", "training.epochs=4"]
    one, two = (compose_config([*words, f"results={own / name}"]) for name in ("one", "two"))
    first = run_one(one)
    torch.rand(3)
    again = run_one(two)
    assert first.run.state()["machine"]["engine"] == "autograd"
    weights = [outcome.run.load_snapshot(4) for outcome in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    table = load_runs(own / "one").query("split == 'train' and epoch == 4")
    assert set(table["name"]) == {"input", "layers.0.2", "layers.1.2"}
    assert set(table["architecture.arguments.dropout"]) == {0.2}


def test_networks_that_can_be_batched_train_together(own: Path) -> None:
    def outline(*words: str) -> Any:
        return outline_network(compose_config([*WORDS, *words]).architecture, (1, 10, 10), 10, choose_layers)

    assert outline().batched
    assert not outline("architecture.arguments.dropout=0.2").batched
    assert not outline("architecture.target=own_custom_nets.Convolutional").batched
    both = execute([compose_config([*SMOKE, f"results={own / 'both'}", f"seed={seed}"]) for seed in (1, 2)])
    alone = run_one(compose_config([*SMOKE, f"results={own / 'alone'}", "seed=2"]))
    assert both[1].run.state()["machine"]["engine"] == "vmap"
    weights = [outcome.run.load_snapshot(2) for outcome in (both[1], alone)]
    for name, expected in weights[1].items():
        torch.testing.assert_close(weights[0][name], expected, rtol=1e-3, atol=1e-4)


def test_a_run_whose_file_has_changed_is_not_measured_with_another_network(own: Path) -> None:
    config = compose_config([*SMOKE, f"results={own}"])
    outcome = run_one(config)
    stored = Run(own, outcome.run.id).config()
    (own / "own_custom_nets.py").write_text(NETS + "\n# changed\n")
    from equisep.config.identity import architecture_from_plain

    with pytest.raises(ConfigError, match="its file has changed since the run was trained"):
        build_network(architecture_from_plain(stored["architecture"]), (1, 10, 10), 10, seed=1)
    assert isinstance(build_network(compose_config(SMOKE).architecture, (1, 10, 10), 10, seed=1), nn.Module)
