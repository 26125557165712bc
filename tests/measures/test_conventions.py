"""D under every convention against plain loops in NumPy, and the predicted floor against the measured one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from equisep.config import Config, Training, by_convention, compose_config
from equisep.data import Data, Split
from equisep.execution import run_one
from equisep.measures import batch_order, measure_separation
from equisep.networks import FeedForwardNetwork
from equisep.training.reference import ReferenceTraining

Features = NDArray[np.float64]


@pytest.fixture(scope="module")
def network(fashion: Data) -> FeedForwardNetwork:
    """A network after a few epochs, in float64."""
    torch.manual_seed(1)
    network = FeedForwardNetwork(100, 10, [40] * 5).double()
    split = Split(fashion.train.inputs.double(), fashion.train.labels)
    config = compose_config(["architecture.depth=8"])
    training = ReferenceTraining(network, split, config.optimizer, Training(6, 128, [], 0.1, snapshots=[]), 1)
    for _ in range(6):
        training.run_epoch()
    return network.eval()


def fuzziness_by_definition(features: Features, labels: NDArray[np.int64]) -> float:
    """Tr(SS_w SS_b⁺) with the covariances written out."""
    mean = features.mean(axis=0)
    within, between = np.zeros((2, features.shape[1], features.shape[1]))
    for name in np.unique(labels):
        rows = features[labels == name]
        within += (rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0)) / len(features)
        between += len(rows) * np.outer(rows.mean(axis=0) - mean, rows.mean(axis=0) - mean) / len(features)
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)))


def layers_of(
    network: FeedForwardNetwork, images: Features, statistics: Features | None, weights: Features | None = None
) -> list[Features]:
    """The outputs of each hidden layer; statistics: None for those of the images, with weights if given."""
    outputs = [images]
    for linear, norm, _ in network.hidden:  # type: ignore[misc]
        weight, bias, gain, shift, mean, variance = (
            tensor.detach().numpy()
            for tensor in (linear.weight, linear.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        z = outputs[-1] @ weight.T + bias
        if statistics is None:
            shares = np.full(len(z), 1 / len(z)) if weights is None else weights
            mean = (shares[:, None] * z).sum(axis=0)
            variance = (shares[:, None] * (z - mean) ** 2).sum(axis=0)
        outputs.append(np.maximum(0, (z - mean) / np.sqrt(variance + norm.eps) * gain + shift))
    return outputs[1:]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("order", ["stored", "shuffled", "stratified"])
@pytest.mark.parametrize("batch_norm", ["batch", "running", "expected"])
def test_d_is_that_of_a_plain_loop_over_batches(
    network: FeedForwardNetwork, fashion: Data, batch_norm: str, order: str, split: str
) -> None:
    chosen = getattr(fashion, split)
    rows = batch_order(chosen.labels[:1000], order, batch_size=90, seed=7)  # type: ignore[arg-type]
    inputs, labels = chosen.inputs[rows].double(), chosen.labels[rows]
    measured = measure_separation(
        network,
        inputs,
        labels,
        network.layers,
        batch_norm=batch_norm,
        batch_size=90,  # type: ignore[arg-type]
    )
    images, classes = inputs.flatten(1).numpy(), labels.numpy()
    collected: list[list[Features]] = [[] for _ in network.layers]
    for start in range(0, len(images), 90):
        batch = slice(start, start + 90)
        if batch_norm == "expected":
            weights = np.zeros(len(images))
            for name in np.unique(classes[batch]):
                weights[classes == name] = (classes[batch] == name).mean() / (classes == name).sum()
            outputs = [features[batch] for features in layers_of(network, images, None, weights)]
        else:
            statistics = np.zeros(0) if batch_norm == "running" else None
            outputs = layers_of(network, images[batch], statistics)
        for parts, features in zip(collected, outputs, strict=True):
            parts.append(features)
    for name, parts in zip(network.layers, collected, strict=True):
        expected = fuzziness_by_definition(np.concatenate(parts), classes)
        assert measured[name].fuzziness == pytest.approx(expected, rel=1e-9), name


def test_float32_features_change_d_by_less_than_rounding_of_the_weights(
    network: FeedForwardNetwork, fashion: Data
) -> None:
    """The network and the images in float32, as in a run, against float64."""
    single = FeedForwardNetwork(100, 10, [40] * 5)
    single.load_state_dict(network.state_dict())
    for batch_norm in ("batch", "running", "expected"):
        one, other = (
            measure_separation(one, inputs, fashion.train.labels, one.layers, batch_norm=batch_norm)  # type: ignore[arg-type]
            for one, inputs in ((single, fashion.train.inputs), (network, fashion.train.inputs.double()))
        )
        for name, value in one.items():
            assert value.fuzziness == pytest.approx(other[name].fuzziness, rel=1e-4)


def test_every_named_convention_is_a_measure_of_the_run(fashion: Data, tmp_path: Path) -> None:
    """By the command line's fields, with the networks and numbers of a run."""
    names = ["paper", "shuffled", "stratified", "evaluation"]
    config = compose_config(
        [f"measures=[{','.join(names)}]", "training=smoke", "tracking=off", f"results={tmp_path}", "seed=3"]
    )
    outcome = run_one(config)
    measures = outcome.run.load_measures()
    assert len(measures) == 4
    assert "e04d71d8" in measures, "the id of the paper's measure is that of earlier versions"
    for alone in by_convention(config):
        (record,) = (r for r in outcome.run.load_measure(alone.measure) if (r.epoch, r.split) == (2, "train"))
        trained = FeedForwardNetwork(100, 10, [100] * 7)
        trained.load_state_dict(outcome.run.load_snapshot(2))
        rows = batch_order(fashion.train.labels, alone.measure.order, batch_size=alone.measure.batch_size)  # type: ignore[arg-type]
        measured = measure_separation(
            trained,
            fashion.train.inputs[rows],
            fashion.train.labels[rows],
            trained.layers,
            batch_norm=alone.measure.batch_norm,  # type: ignore[arg-type]
            batch_size=alone.measure.batch_size,
        )
        assert record.fuzziness == pytest.approx([value.fuzziness for value in measured.values()], rel=1e-6)
    losses = {r.loss for m in measures.values() for r in m.records if (r.epoch, r.split) == (2, "train")}
    assert len(losses) == 1


@pytest.mark.slow
@pytest.mark.parametrize("depth", [8, 20])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_predicted_floor_is_within_a_fifth_of_the_measured_one(tmp_path: Path, depth: int, optimizer: str) -> None:
    """At the last layer of a network of Figure 1, under the paper's convention."""
    fields = [
        f"architecture.depth={depth}",
        f"optimizer={optimizer}",
        "training.snapshots=[]",
        "measure.test_epochs=[]",
    ]
    config = compose_config([*fields, "tracking=off", f"results={tmp_path}", "measures=[paper,evaluation]"])
    paper, evaluation = by_convention(config)
    predicted = replace(paper, measure=replace(paper.measure, batch_norm="expected"), measures=None)

    def last(config: Config) -> float:
        outcome = run_one(config)
        assert outcome.final is not None
        return outcome.final.fuzziness[-1]

    floor = last(paper) - last(replace(evaluation, measures=None))
    assert floor > 0.2
    assert last(predicted) - last(replace(evaluation, measures=None)) == pytest.approx(floor, rel=0.2)
