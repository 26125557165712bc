"""The evaluations of a run's snapshots: D of each layer on a split, robustness; recorded and mirrored."""

from __future__ import annotations

import torch
from torch import nn

from equisep.config.identity import identity_of_measure, identity_of_robustness, measure_id, robustness_id
from equisep.data.dataset import Split
from equisep.execution.job import Job
from equisep.execution.tracking import Mirror
from equisep.measures.layers import INPUT, evaluate, measure_separation
from equisep.measures.records import LayerRecord, RobustnessResults
from equisep.robustness.images import Images
from equisep.robustness.perturbations import measure_robustness
from equisep.store.status import ROBUSTNESS


def evaluate_missing(job: Job, mirror: Mirror | None) -> None:
    """Take, record and mirror the evaluations that a job asks for and which are not recorded yet.

    Raises NotFinite where the features of a snapshot are not finite.
    """
    missing = job.missing()
    if not missing:
        return
    network = job.network()
    measure = job.config.measure
    records = job.run.load_measure(measure)
    for epoch, part in missing:
        network.load_state_dict(job.run.load_snapshot(epoch))
        if part == ROBUSTNESS:
            _evaluate_robustness(job, network, mirror)
            continue
        records.append(_measure_snapshot(job, network, epoch, part))
        job.run.save_measure(measure, records)
        if mirror:
            mirror.log_measure(measure_id(measure), identity_of_measure(measure), records[-1])


def _measure_snapshot(job: Job, network: nn.Module, epoch: int, name: str) -> LayerRecord:
    split, measure = job.split(name), job.config.measure
    separations = measure_separation(
        network,
        split.inputs,
        split.labels,
        job.points,
        batch_norm=measure.batch_norm,  # type: ignore[arg-type]
        batch_size=measure.batch_size,
        weighting=measure.weighting,  # type: ignore[arg-type]
        components=measure.components,
        principal_inputs=job.split("train").inputs,
        memory_limit=measure.memory_limit,
    )
    evaluation = evaluate(network, split.inputs, split.labels)
    return LayerRecord(
        epoch=epoch,
        split=name,
        layers=tuple(separations),
        fuzziness=tuple(value.fuzziness for value in separations.values()),
        rank=tuple(value.rank for value in separations.values()),
        classes=separations[INPUT].classes,
        loss=evaluation.loss,
        accuracy=evaluation.accuracy,
    )


def _evaluate_robustness(job: Job, network: nn.Module, mirror: Mirror | None) -> None:
    robustness, measure, dataset = job.config.robustness, job.config.measure, job.config.dataset
    assert robustness is not None
    kept = slice(None) if dataset.channel is None else slice(dataset.channel, dataset.channel + 1)
    mean, std = (torch.tensor(values, dtype=job.dtype)[kept].to(job.device) for values in (dataset.mean, dataset.std))
    train, test = job.split("train"), job.split("test")
    few = Split(test.inputs[: robustness.test_images], test.labels[: robustness.test_images])
    images = Images(train, mean, std), Images(few, mean, std)
    results = measure_robustness(network, job.points, *images, robustness, measure)
    identity = robustness_id(robustness, measure)
    evaluation = RobustnessResults(identity_of_robustness(robustness, measure), results)
    job.run.save_robustness(identity, evaluation)
    if mirror:
        mirror.log_robustness(identity, evaluation)
