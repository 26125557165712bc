"""Members of a population against the same networks trained alone as plain nn.Modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from equisep.config import FeedForward, Optimizer, Training, compose_config
from equisep.data import Data, Split
from equisep.measures import evaluate, fit_law, measure_separation
from equisep.networks import FeedForwardNetwork, build_network
from equisep.training import Member, NativeTraining, Population, can_compile
from equisep.training.feed_forward import FeedForwardProgram
from equisep.training.modules import ModuleProgram, PlainProgram
from equisep.training.reference import ReferenceTraining

OPTIMIZERS = {
    "adam": Optimizer(kind="adam", learning_rate=1e-3, momentum=0.0, weight_decay=5e-4),
    "sgd": Optimizer(kind="sgd", learning_rate=0.03, momentum=0.0, weight_decay=5e-4),
    "momentum": Optimizer(kind="sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
}
NEIGHBOURS = [
    Optimizer(kind="adam", learning_rate=3e-4, momentum=0.0, weight_decay=1e-3),
    Optimizer(kind="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0.0),
]
# 500 images are four batches of 116 and one of 36 per epoch.
TEN_STEPS = Training(epochs=2, batch_size=116, milestones=[1], decay=0.1, snapshots=[])


class AnyModule(nn.Module):
    """The same network in another class, so that ModuleProgram trains it."""

    def __init__(self, network: FeedForwardNetwork) -> None:
        super().__init__()
        self.inner = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs)


def as_double(split: Split) -> Split:
    return Split(split.inputs.double(), split.labels)


def halves(split: Split) -> list[Split]:
    """Return two different data sets of equal size."""
    return [Split(split.inputs[start::2], split.labels[start::2]) for start in (0, 1)]


def relative_error(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(
        float((state[name] - value).double().norm() / value.double().norm().clamp_min(1e-300))
        for name, value in expected.items()
    )


@pytest.mark.parametrize("depth", [4, 8, 20])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("kind", ["feed_forward", "any_module"])
def test_every_tensor_agrees_after_ten_steps_in_float64(fashion: Data, depth: int, optimizer: str, kind: str) -> None:
    one, other = (as_double(half) for half in halves(fashion.train))
    configs = [NEIGHBOURS[0], OPTIMIZERS[optimizer], OPTIMIZERS[optimizer], NEIGHBOURS[1]]
    splits = [one, one, other, other]
    networks = [
        build_network(FeedForward(family="fnn", depth=depth, width=100), (1, 10, 10), 10, seed).double()
        for seed in range(4)
    ]
    if kind == "any_module":
        networks = [AnyModule(network) for network in networks]
    singles = [
        ReferenceTraining(copy.deepcopy(network), split, config, TEN_STEPS, seed)
        for seed, (network, split, config) in enumerate(zip(networks, splits, configs, strict=True))
    ]
    members = [
        Member(network, split, config, seed)
        for seed, (network, split, config) in enumerate(zip(networks, splits, configs, strict=True))
    ]
    population = Population(members, TEN_STEPS)
    assert isinstance(population.program, FeedForwardProgram if kind == "feed_forward" else ModuleProgram)
    for _ in range(2):
        epochs = population.run_epoch()
        losses = [single.run_epoch() for single in singles]
        assert [epoch.loss for epoch in epochs] == pytest.approx(losses, rel=1e-9)
    for index, single in enumerate(singles):
        assert relative_error(population.weights(index), single.network.state_dict()) < 1e-8


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("fnn architecture.batch_norm=false", ModuleProgram),
        ("fnn architecture.activation=identity", ModuleProgram),
        ("fnn_layer_norm", ModuleProgram),
        ("fnn_kaiming", ModuleProgram),
        ("fnn_widths architecture.widths=[30,100,30,50]", FeedForwardProgram),
        ("vgg11 architecture.width_multiplier=0.125", PlainProgram),
        pytest.param("alexnet architecture.width_multiplier=0.125", PlainProgram, marks=pytest.mark.slow),
        pytest.param("resnet_mixed", PlainProgram, marks=pytest.mark.slow),
        ("densenet architecture.width_multiplier=0.25", PlainProgram),
    ],
)
def test_every_family_trains_like_its_plain_module(fashion: Data, name: str, program: type) -> None:
    """Twenty-four images at 32×32 pixels, two epochs with a batch of 16 and one of 8, float64."""
    architecture, *overrides = name.split()
    config = compose_config([f"architecture={architecture}", "optimizer.learning_rate=1e-3", *overrides])
    images = torch.nn.functional.interpolate(fashion.train.inputs[:24].double(), size=32)
    split = Split(images, fashion.train.labels[:24])
    training = Training(epochs=2, batch_size=16, milestones=[1], decay=0.1, snapshots=[])
    networks = [build_network(config.architecture, (1, 32, 32), 10, seed).double() for seed in (1, 2)]
    rules = [OPTIMIZERS["adam"], OPTIMIZERS["momentum"]]
    singles = [
        ReferenceTraining(copy.deepcopy(network), split, rule, training, seed)
        for seed, (network, rule) in enumerate(zip(networks, rules, strict=True))
    ]
    members = [
        Member(network, split, rule, seed) for seed, (network, rule) in enumerate(zip(networks, rules, strict=True))
    ]
    population = Population(members, training)
    assert type(population.program) is program
    for _ in range(2):
        epochs = population.run_epoch()
        assert [epoch.loss for epoch in epochs] == pytest.approx([single.run_epoch() for single in singles], rel=1e-9)
    for index, single in enumerate(singles):
        weights = population.weights(index)
        for key, value in single.network.state_dict().items():
            # Shifts removed by the next normalisation have no gradient, only rounding errors.
            torch.testing.assert_close(weights[key], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["fnn", "resnet_two_layer"])
def test_a_saved_population_resumes_bit_for_bit(fashion: Data, name: str) -> None:
    config = compose_config([f"architecture={name}", "optimizer.learning_rate=1e-3"])
    training = Training(epochs=3, batch_size=32, milestones=[], decay=0.1, snapshots=[])
    split = Split(fashion.train.inputs[:40], fashion.train.labels[:40])

    def build() -> Population:
        networks = [build_network(config.architecture, (1, 10, 10), 10, seed) for seed in (1, 2)]
        return Population([Member(network, split, OPTIMIZERS["adam"], 0) for network in networks], training)

    whole, resumed = build(), build()
    whole.run_epoch()
    resumed.load_state(copy.deepcopy(whole.state()))
    assert whole.run_epoch() == resumed.run_epoch()
    for index in range(2):
        weights = resumed.weights(index)
        assert all(torch.equal(value, weights[name]) for name, value in whole.weights(index).items())


def members_of_depth_8(fashion: Data, seeds: Sequence[int], config: Optimizer = OPTIMIZERS["adam"]) -> list[Member]:
    shape = FeedForward(family="fnn", depth=8, width=100)
    return [Member(build_network(shape, (1, 10, 10), 10, seed), fashion.train, config, seed) for seed in seeds]


def test_the_first_loss_agrees_in_float32(fashion: Data) -> None:
    population = Population(members_of_depth_8(fashion, [666, 1]), TEN_STEPS)
    alone = [
        ReferenceTraining(member.network, member.split, member.optimizer, TEN_STEPS, member.seed)
        for member in population.members
    ]
    batches = [order.next_epoch()[:128] for order in population.orders]
    inputs = torch.stack([fashion.train.inputs[batch] for batch in batches])
    loss, _ = population.program.step(inputs, torch.stack([fashion.train.labels[batch] for batch in batches]))
    for single, batch, first in zip(alone, batches, loss.tolist(), strict=True):
        assert single.step(batch).item() == pytest.approx(first, rel=1e-5)


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_compiled_kernels_agree_with_plain_kernels(fashion: Data) -> None:
    plain, compiled = (
        Population(
            [
                Member(m.network.double(), as_double(fashion.train), m.optimizer, m.seed)
                for m in members_of_depth_8(fashion, [1, 2])
            ],
            TEN_STEPS,
            compiled=compiled,
        )
        for compiled in (False, True)
    )
    first, second = plain.run_epoch(), compiled.run_epoch()
    assert [epoch.loss for epoch in second] == pytest.approx([epoch.loss for epoch in first], rel=1e-9)
    for index in range(2):
        assert relative_error(compiled.weights(index), plain.weights(index)) < 1e-8


def test_a_diverging_member_does_not_affect_the_others(fashion: Data) -> None:
    diverging = Optimizer(kind="sgd", learning_rate=1e30, momentum=0.0, weight_decay=5e-4)
    members, stable_members = (members_of_depth_8(fashion, [1, 2, 3], OPTIMIZERS["sgd"]) for _ in range(2))
    members[1] = replace(members[1], optimizer=diverging)
    populations = [Population(members, TEN_STEPS), Population(stable_members, TEN_STEPS)]
    for _ in range(2):
        mixed, stable = (population.run_epoch() for population in populations)
    assert mixed[1].diverged
    for index in (0, 2):
        assert mixed[index] == stable[index]
        states = [population.weights(index) for population in populations]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_members_leave_as_plain_modules_and_can_enter_again(fashion: Data) -> None:
    population = Population(members_of_depth_8(fashion, [1, 2]), TEN_STEPS)
    population.run_epoch()
    out = copy.deepcopy(population.program.module(1))
    assert type(out) is FeedForwardNetwork
    assert int(out.hidden[0][1].num_batches_tracked) == 9
    again = Population([Member(out, fashion.train, OPTIMIZERS["adam"], 2)], TEN_STEPS)
    assert relative_error(again.weights(0), population.weights(1)) == 0.0


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_sixteen_seeds_have_equal_distributions_in_float32(fashion: Data) -> None:
    """r, ρ, training and test accuracy after 60 epochs, by each engine: Kolmogorov–Smirnov and means."""
    training = Training(epochs=60, batch_size=128, milestones=[20, 40], decay=0.1, snapshots=[])
    members = members_of_depth_8(fashion, range(16))
    alone = [
        ReferenceTraining(copy.deepcopy(member.network), member.split, member.optimizer, training, member.seed)
        for member in members
    ]
    # The population's networks are stacked copies; the native engine trains the members themselves.
    population = Population(members, training, compiled=True)
    native = [NativeTraining([member], training) for member in members]
    for _ in range(training.epochs):
        for trainer in (population, *native, *alone):
            trainer.run_epoch()
    apart = [statistics_of(single.network, fashion) for single in alone]
    natively = [statistics_of(trainer.network, fashion) for trainer in native]
    # Last, since it writes into the members' networks.
    together = [statistics_of(population.program.module(index), fashion) for index in range(16)]
    for engine in (together, natively):
        for one, other in zip(np.transpose(engine), np.transpose(apart), strict=True):
            assert stats.ks_2samp(one, other).pvalue > 0.05
            spread = np.std(other, ddof=1)
            assert abs(np.mean(one) - np.mean(other)) <= 3 * spread * (2 / 16) ** 0.5 + 1e-12


def statistics_of(network: nn.Module, fashion: Data) -> tuple[float, ...]:
    train, test = fashion.train, fashion.test
    measured = measure_separation(network, train.inputs, train.labels, [f"hidden.{layer}" for layer in range(7)])
    law = fit_law([value.fuzziness for value in measured.values()])
    accuracies = [evaluate(network, split.inputs, split.labels).accuracy for split in (train, test)]
    return law.pearson_r, law.decay_ratio, *accuracies
