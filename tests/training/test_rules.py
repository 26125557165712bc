"""Optimizers of torch.optim by name, schedules and losses: the same steps as a plain loop, refused in one line."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equisep.config import ConfigError, Optimizer, compose_config, config_hash
from equisep.data import Data
from equisep.execution.train import execute
from equisep.measures import LOSSES
from equisep.networks import build_network
from equisep.training import Member, Population, build_optimizer
from equisep.training.schedule import DataOrder, learning_rate_factor

SHORT = ["architecture.depth=4", "architecture.width=20", "training.epochs=3", "tracking=off"]


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.kind=AdamW", "optimizer.weight_decay=0.1"],
        ["optimizer.kind=RMSprop", "optimizer.arguments.alpha=0.9", "training.loss=squared_error"],
        ["training.loss=squared_error"],
        ["training.schedule=cosine", "training.milestones=[]", "training.warmup=1"],
    ],
)
def test_training_takes_the_steps_of_a_plain_loop(words: list[str], fashion: Data) -> None:
    config = compose_config([*SHORT, "optimizer.learning_rate=1e-3", *words])
    network, twin = (build_network(config.architecture, (1, 10, 10), 10, seed=1) for _ in range(2))
    population = Population([Member(network, fashion.train, config.optimizer, 1)], config.training)
    kinds = {"adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "RMSprop": torch.optim.RMSprop}
    arguments = {"lr": 1e-3, "weight_decay": config.optimizer.weight_decay, **config.optimizer.arguments}
    optimizer = kinds[config.optimizer.kind](twin.parameters(), **arguments)
    order = DataOrder(1000, seed=1)
    for epoch in range(3):
        (record,) = population.run_epoch()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * learning_rate_factor(config.training, epoch)
        twin.train()
        total = 0.0
        for batch in order.next_epoch().split(128):
            optimizer.zero_grad()
            loss = LOSSES[config.training.loss](twin(fashion.train.inputs[batch]), fashion.train.labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        assert record.loss == pytest.approx(total / 1000, rel=1e-5)
        assert record.learning_rate == optimizer.param_groups[0]["lr"]
    weights = population.weights(0)
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-2, atol=1e-4)


def test_the_squared_error_is_the_mean_over_images_and_classes() -> None:
    logits, labels = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 1])
    assert LOSSES["squared_error"](logits, labels).item() == pytest.approx(0.125)
    assert LOSSES["squared_error"](logits, labels, reduction="sum").item() == pytest.approx(0.25)
    assert LOSSES["cross_entropy"] is cross_entropy


def test_a_schedule_by_name() -> None:
    words = ["training.schedule=cosine", "training.milestones=[]", "training.warmup=2", "training.epochs=10"]
    training = compose_config(words).training
    factors = [learning_rate_factor(training, epoch) for epoch in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factors[2:] == sorted(factors[2:], reverse=True)
    constant = compose_config(["training.schedule=constant", "training.milestones=[]"]).training
    assert {learning_rate_factor(constant, epoch) for epoch in (0, 300, 599)} == {1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.kind=lion"], "optimizer.kind=lion: choose one of sgd, adam, or a class of torch.optim"),
        (["optimizer.kind=Adamw"], "torch.optim has no such class; did you mean Adam"),
        (["optimizer.kind=LBFGS"], "is not supported, it needs the loss at several points of a step"),
        (["optimizer.kind=AdamW", "optimizer.arguments.lr=1"], "optimizer.arguments.lr=1: set optimizer.learning_rate"),
        (["optimizer.kind=SGD", "optimizer.arguments.momentum=0.5"], "arguments.momentum=0.5: set optimizer.momentum"),
        (["optimizer.kind=AdamW", "optimizer.arguments.beta=1"], "unexpected keyword argument 'beta'"),
        (["optimizer.kind=AdamW", "optimizer.momentum=0.9"], "optimizer.momentum=0.9: AdamW has none; set 0"),
        (["optimizer.kind=Muon"], "Muon only supports 2D parameters"),
        (["optimizer.arguments.eps=1"], "adam takes no further arguments here"),
        (["training.schedule=cosine"], r"training.milestones=\[200, 400\]: .*cosine has none"),
        (["training.schedule=linear"], "choose one of step, cosine, constant"),
        (["training.warmup=600"], "training.warmup=600: must be at least 0 and below training.epochs=600"),
        (["training.loss=hinge"], "choose one of cross_entropy, squared_error"),
        (["training.loss=squared_error", "compute.engine=native"], "compute.engine=native"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_in_one_line(words: list[str], message: str, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        execute([compose_config([*words, "tracking=off", f"results={tmp_path}"])])
    assert "\n" not in str(raised.value)


def test_runs_by_the_rules_of_the_paper_keep_their_identity() -> None:
    same = ["training.schedule=step", "training.warmup=0", "training.loss=cross_entropy"]
    assert config_hash(compose_config(same)) == config_hash(compose_config([]))
    for other in ("training.loss=squared_error", "training.warmup=1", "optimizer.kind=AdamW"):
        assert config_hash(compose_config([other])) != config_hash(compose_config([]))


def test_a_name_of_a_class_is_that_class() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    config = Optimizer(kind="SGD", learning_rate=0.1, momentum=0.5, weight_decay=0.0, arguments={"nesterov": True})
    optimizer = build_optimizer(config, parameters)
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (True, 0.5)
