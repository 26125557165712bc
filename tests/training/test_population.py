from __future__ import annotations

import copy
import math

import pytest
import torch

from equisep.config import FeedForward, Optimizer, Training
from equisep.config.schema import Phase
from equisep.data import Data
from equisep.networks import build_network
from equisep.training import Member, Population

DEPTH_8 = FeedForward(family="fnn", depth=8, width=100)


def make_population(fashion: Data, *, rate: float = 1e-3, kind: str = "adam", momentum: float = 0.0) -> Population:
    optimizer = Optimizer(kind=kind, learning_rate=rate, momentum=momentum, weight_decay=5e-4)
    training = Training(epochs=600, batch_size=128, milestones=[200, 400], decay=0.1, snapshots=[0])
    network = build_network(DEPTH_8, (1, 10, 10), 10, seed=666)
    return Population([Member(network, fashion.train, optimizer, seed=666)], training)


def test_the_first_epochs_agree_with_the_released_code(fashion: Data) -> None:
    population = make_population(fashion)
    losses = [population.run_epoch()[0].loss for _ in range(4)]
    assert losses[:2] == pytest.approx([1.9365, 1.2666], abs=1e-3)
    assert losses[2:] == pytest.approx([0.9435, 0.7434], abs=1e-2)


@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)])
def test_a_saved_state_resumes_bit_for_bit(fashion: Data, kind: str, momentum: float) -> None:
    whole = make_population(fashion, kind=kind, momentum=momentum)
    whole.run_epoch()
    saved = copy.deepcopy(whole.state())
    expected = whole.run_epoch()
    resumed = make_population(fashion, kind=kind, momentum=momentum)
    resumed.load_state(saved)
    assert resumed.run_epoch() == expected
    for name, value in whole.weights(0).items():
        assert torch.equal(value, resumed.weights(0)[name])


def test_a_step_of_plain_sgd_agrees_with_the_textbook_formula(fashion: Data) -> None:
    """A batch of the whole set: w ← w − η (∇L + λ w), for every parameter."""
    network = build_network(DEPTH_8, (1, 10, 10), 10, seed=1).double()
    split = type(fashion.train)(fashion.train.inputs.double(), fashion.train.labels)
    optimizer = Optimizer(kind="sgd", learning_rate=0.1, momentum=0.0, weight_decay=5e-4)
    training = Training(epochs=1, batch_size=1000, milestones=[], decay=0.1, snapshots=[])
    before = copy.deepcopy(network)
    loss = torch.nn.functional.cross_entropy(before(split.inputs), split.labels)
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    population = Population([Member(network, split, optimizer, seed=0)], training)
    (epoch,) = population.run_epoch()
    assert epoch.loss == pytest.approx(loss.item(), rel=1e-9)
    for new, old, gradient in zip(
        population.program.module(0).parameters(), before.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(new, old - 0.1 * (gradient + 5e-4 * old), rtol=1e-9, atol=1e-12)


def test_a_diverged_epoch_is_recorded_as_diverged(fashion: Data) -> None:
    population = make_population(fashion, kind="sgd", rate=1e30)
    (epoch,) = population.run_epoch()
    assert epoch.diverged
    assert not math.isfinite(epoch.loss)


PHASES = [Phase(start=0, first=1, last=4), Phase(start=2, first=5, last=8)]


def two_stage_population(fashion: Data, *, frozen_decay: bool = False, kind: str = "adam") -> Population:
    training = Training(
        epochs=4, batch_size=128, milestones=[], decay=0.1, phases=PHASES, frozen_decay=frozen_decay, snapshots=[]
    )
    members = []
    for seed in (1, 2):
        optimizer = Optimizer(kind=kind, learning_rate=1e-3 * seed, momentum=0.0, weight_decay=5e-4)
        members.append(Member(build_network(DEPTH_8, (1, 10, 10), 10, seed), fashion.train, optimizer, seed))
    return Population(members, training)


def snapshot(population: Population) -> list[dict[str, torch.Tensor]]:
    return [{name: value.clone() for name, value in population.weights(index).items()} for index in range(2)]


def layer_of(name: str) -> int:
    """Return the layer, from 1, of a parameter or buffer of a feed-forward network of depth 8."""
    return 8 if name.startswith("classifier") else int(name.split(".")[1]) + 1


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_frozen_layers_keep_their_weights_and_update_their_statistics(fashion: Data, kind: str) -> None:
    population = two_stage_population(fashion, kind=kind)
    for trained in (range(1, 5), range(5, 9)):
        before = snapshot(population)
        for _ in range(2):
            population.run_epoch()
        for old, new in zip(before, snapshot(population), strict=True):
            for name, value in old.items():
                if "running" in name or "num_batches" in name:
                    assert not torch.equal(value, new[name]), name
                else:
                    assert torch.equal(value, new[name]) == (layer_of(name) not in trained), name


def test_frozen_decay_is_that_of_zero_gradients(fashion: Data) -> None:
    """Under torch 1.9 frozen parameters had zero gradients, so that weight decay changed them, also in Adam."""
    population = two_stage_population(fashion, frozen_decay=True, kind="sgd")
    before = snapshot(population)
    population.run_epoch()
    for seed, (old, new) in enumerate(zip(before, snapshot(population), strict=True), start=1):
        shrunk = (1 - 1e-3 * seed * 5e-4) ** 8
        frozen = [name for name in old if layer_of(name) > 4 and name.endswith(("weight", "bias"))]
        assert len(frozen) == 3 * 4 + 2
        for name in frozen:
            torch.testing.assert_close(new[name], old[name] * shrunk, rtol=1e-6, atol=1e-9)
    adam = two_stage_population(fashion, frozen_decay=True)
    before = snapshot(adam)
    adam.run_epoch()
    assert not torch.equal(before[0]["hidden.6.0.weight"], snapshot(adam)[0]["hidden.6.0.weight"])


def test_two_stage_training_resumes_bit_for_bit_across_phases(fashion: Data) -> None:
    whole, resumed = two_stage_population(fashion), two_stage_population(fashion)
    for _ in range(2):
        whole.run_epoch()
    resumed.load_state(copy.deepcopy(whole.state()))
    for _ in range(2):
        assert whole.run_epoch() == resumed.run_epoch()
    for one, other in zip(snapshot(whole), snapshot(resumed), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
