"""Conventions of measuring as config: names, ids and what they supply."""

from __future__ import annotations

import yaml

from equisep.config import (
    by_convention,
    compose_config,
    conf_folder,
    config_hash,
    convention_of,
    conventions,
    from_plain,
    identity_of_measure,
    measure_id,
    to_plain,
)


def test_each_name_supplies_its_fields_and_the_others_hold_for_all() -> None:
    config = compose_config(["measures=[paper,shuffled,evaluation]", "measure.view=layer", "measure.weighting=equal"])
    measures = [alone.measure for alone in by_convention(config)]
    assert [(m.batch_norm, m.order, m.batch_size) for m in measures] == [
        ("batch", "stored", 100),
        ("batch", "shuffled", 100),
        ("running", "stored", 1000),
    ]
    assert {measure.weighting for measure in measures} == {"equal"}
    # The config's own measure is the first.
    assert config.measure == measures[0]
    assert compose_config(["measures=[evaluation]"]).measure.batch_norm == "running"
    assert from_plain(to_plain(config)).measures == ["paper", "shuffled", "evaluation"]


def test_ids_of_earlier_measures_and_runs_are_unchanged() -> None:
    plain = compose_config([])
    assert measure_id(plain.measure) == "e04d71d8"
    assert measure_id(compose_config(["measure.batch_norm=running"]).measure) == "f3c05826"
    # A seed of an order that is not shuffled changes nothing.
    assert measure_id(compose_config(["measure.order_seed=3"]).measure) == "e04d71d8"
    ids = {measure_id(compose_config([f"measure={name}"]).measure) for name in conventions()}
    assert len(ids | {measure_id(compose_config(["measure=shuffled", "measure.order_seed=3"]).measure)}) == 5
    assert config_hash(plain) == "7c6ee6efd72a10b1"
    assert config_hash(compose_config(["measures=[paper,evaluation]"])) == "7c6ee6efd72a10b1"
    assert config_hash(compose_config(["architecture=fnn_layer_norm"])) != config_hash(
        compose_config(["architecture=fnn_no_batch_norm"])
    )


def test_a_network_without_batch_normalisation_is_measured_once() -> None:
    for name in ("fnn_no_batch_norm", "fnn_layer_norm", "fnn_kaiming"):
        (alone,) = by_convention(compose_config([f"architecture={name}", "measures=[paper,evaluation]"]))
        assert alone.measure.batch_norm == "batch"
    assert len(by_convention(compose_config(["architecture=vgg13", "optimizer.learning_rate=1e-3"]))) == 1


def test_measures_are_named_by_their_convention() -> None:
    for name in conventions():
        assert convention_of(identity_of_measure(compose_config([f"measure={name}"]).measure)) == name
    other = compose_config(["measure.batch_size=50", "measure.order=shuffled"]).measure
    assert convention_of(identity_of_measure(other)) == "batch, shuffled, 50"


def test_every_experiment_is_measured_under_both_conventions() -> None:
    for path in (conf_folder() / "experiment").glob("*.yaml"):
        expected = None if path.stem == "conventions" else ["paper", "evaluation"]
        assert yaml.safe_load(path.read_text()).get("measures") == expected, path.stem
