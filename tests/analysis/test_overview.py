"""All runs of a source: rows, exclusions and statistics; the figures of decay ratio and test accuracy."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equisep.analysis.all_runs import (
    COLUMNS,
    comparable,
    correlations_with_test_accuracy,
    exponential_against_rivals,
    remarks_on_correlations,
    summarise_runs,
)
from equisep.analysis.figures.catalogue import OVERVIEWS as FIGURES
from equisep.analysis.overview import Overview
from equisep.config import compose_config
from equisep.execution.train import execute
from equisep.measures import LayerRecord, Measurement, fit_law
from equisep.store import load_runs
from equisep.store.table import tabulate
from tests.store.test_readers import make_record, wait_for_logs

OVERVIEWS = ("decay_ratio", "test_accuracy")


def overview(name: str) -> Overview:
    return FIGURES[name]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    usual = [f"results={results}", "tracking=offline", "training=smoke", "architecture.depth=4"]
    runs = [["seed=1"], ["seed=2"], ["seed=3"], ["seed=1", "optimizer=sgd", "optimizer.learning_rate=1e30"]]
    execute([compose_config([*usual, *overrides]) for overrides in runs])
    phases = "training.phases=[{start:0,first:1,last:2},{start:1,first:3,last:4}]"
    execute([compose_config([*usual, "seed=1", phases])])
    wait_for_logs(results)
    return results


def test_a_row_is_a_run_at_one_epoch(store: Path) -> None:
    summary = summarise_runs(load_runs(store))
    assert tuple(summary.table.columns) == COLUMNS
    assert len(summary.table) == 4 * 2
    assert summary.notes == ("Left out: 1 of 5 runs: unfinished or diverged.",)
    last = summary.table[summary.table["last"]]
    assert sorted(last["training"]) == ["joint", "joint", "joint", "two-stage"]
    assert last["test_accuracy"].between(0.05, 1).all()
    assert summary.table.loc[~summary.table["last"], "test_accuracy"].isna().all()
    one = load_runs(store).query("seed == 2 and epoch == 2 and split == 'train'").sort_values("layer")
    law = fit_law(one["D"])
    row = last[last["seed"] == 2].iloc[0]
    assert (row["r"], row["decay_ratio"], row["log_ratio_cv"]) == (
        law.pearson_r,
        law.decay_ratio,
        law.log_ratio_cv,
    )
    assert row["dataset"] == "fashion_mnist 10×10"


def test_a_network_with_permuted_layers_is_no_further_row(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "runs", tmp_path / "runs")
    before = summarise_runs(load_runs(tmp_path)).table
    usual = [f"results={tmp_path}", "tracking=off", "training=smoke", "architecture.depth=4", "seed=1"]
    execute([compose_config([*usual, "measure.permutation_seed=0"])])
    runs = load_runs(tmp_path)
    assert (runs["measure.permutation_seed"] == 0).any()
    pd.testing.assert_frame_equal(summarise_runs(runs).table, before)


def test_runs_that_cannot_be_compared_are_left_out_and_counted() -> None:
    records = [
        make_record("a", [4.0, 2.0, 1.0]),
        make_record("b", [4.0, 0.0, 1.0]),
        make_record("c", [4.0, math.nan, 1.0], flaw="epoch 2, train: layer 1 has no D"),
        make_record("d", [4.0, 2.0, 1.0], protocol=0),
        make_record("e", [4.0, 2.0, 1.0], state="interrupted"),
        replace(make_record("f", [4.0, 2.0, 1.0]), measures={}),
        make_record("g", [4.0, 2.0, 1.0], training="training.batch_size=64"),
    ]
    summary = summarise_runs(tabulate(records))
    assert summary.table["run"].tolist() == ["a"]
    assert summary.notes == (
        "Left out: 1 of 7 runs: a non-positive D in the last epoch.",
        "Left out: 1 of 7 runs: damaged or incomplete records.",
        "Left out: 1 of 7 runs: another protocol version than 1.",
        "Left out: 1 of 7 runs: unfinished or diverged.",
        "Left out: 1 of 7 runs: not measured under this convention.",
        "Left out: 1 of 7 runs: not trained as in the paper, or for fewer epochs than others.",
    )


def test_shorter_training_is_left_out() -> None:
    """For each data set and training mode only the longest runs count: an additional smoke run changes nothing."""
    long = [make_record(run, [4.0, 2.0, 1.0], training="training.epochs=3") for run in "ab"]
    summary = summarise_runs(tabulate([*long, make_record("c", [4.0, 1.0, 0.5])]))
    # Their records end at epoch 2, before their last epoch.
    assert summary.table.empty
    assert any(note.startswith("Left out: 1 of 3 runs: not trained as in the paper") for note in summary.notes)


@pytest.mark.parametrize("name", OVERVIEWS)
def test_a_source_without_runs_is_not_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert overview(name).main([f"results={tmp_path}"]) == 1
    assert json.loads((tmp_path / f"verdicts/{name}.json").read_text())["verdict"] == "not tested"
    unmeasured = tabulate([replace(make_record("a", [2.0, 1.0]), measures={})])
    assert overview(name).make(unmeasured).words == "not tested"


@pytest.mark.parametrize("name", OVERVIEWS)
def test_the_logs_give_the_same_tables_and_verdict_as_the_store(name: str, store: Path) -> None:
    from_store, from_logs = (overview(name).make(load_runs(source)) for source in (store, store / "wandb"))
    pd.testing.assert_frame_equal(from_logs.tables[""], from_store.tables[""], check_exact=True)
    assert repr(from_logs.verdicts) == repr(from_store.verdicts)
    assert from_logs.notes == from_store.notes
    assert from_logs.figure is not None


def test_statistics_are_computed_by_data_set_and_seed() -> None:
    falls = {"a": [8.0, 4.0, 2.0, 1.0], "b": [8.0, 3.9, 2.2, 1.0], "c": [8.0, 3.0, 2.5, 1.0], "d": [8.0, 8.0, 8.0, 1.1]}
    accuracies = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}
    rates = {"a": "1e-3", "b": "2e-3", "c": "3e-3", "d": "4e-3"}
    records = [
        make_record(run, falls[run], test_accuracy=accuracies[run], training=f"optimizer.learning_rate={rates[run]}")
        for run in falls
    ]
    table = summarise_runs(tabulate(records)).table
    (correlations,) = correlations_with_test_accuracy(table).to_dict("records")
    assert (correlations["settings"], correlations["seeds"]) == (4, 1)
    # In this example accuracy is higher the closer the ratios are to equal.
    assert correlations["correlation_with_log_ratio_cv"].mean == pytest.approx(-1)
    assert correlations["correlation_with_r"].mean == pytest.approx(-1)
    (rivals,) = exponential_against_rivals(table).to_dict("records")
    assert rivals["exponential_share"] == 1.0
    assert len(comparable(table)) == 4


def test_a_claim_over_all_data_sets_is_not_tested_on_some_of_them() -> None:
    records = [make_record(f"{seed}", [8.0, 4.0, 2.0, 1.0], test_accuracy=0.5) for seed in range(3)]
    result = overview("decay_ratio").make(tabulate(records))
    assert result.words == "not tested"
    assert result.verdicts["paper"].missing == "no networks on MNIST 10×10, CIFAR-10 10×10"
    assert result.scope.startswith(
        "Scope: 3 feed-forward networks, of which those judged are counted in the notes; 1 seed"
    )


def test_seeds_with_few_of_the_networks_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equisep.analysis.overview.DATASETS", ["fashion_mnist 10×10"])
    curves = ([8.0, 4.0, 2.0, 1.0], [8.0, 3.9, 2.2, 1.0], [8.0, 3.0, 2.5, 1.0], [8.0, 3.1, 2.5, 1.0])
    records = []
    for seed in (1, 2, 3, 4):
        for index, curve in enumerate(curves[:1] if seed == 4 else curves):
            record = make_record(f"{seed}{index}", curve, test_accuracy=0.5 + 0.1 * index)
            records.append(replace(record, config=record.config | {"seed": seed}))
    result = overview("decay_ratio").make(tabulate(records))
    assert any(note.startswith("paper: Not judged") and "1 of Fashion-MNIST 10×10" in note for note in result.notes)
    assert {finding.interval.n for finding in result.verdicts["paper"].findings} == {3}
    assert "paper: Judged: 12 networks: 12 on Fashion-MNIST 10×10." in result.notes


def test_the_correlation_at_one_protocol_leaves_out_what_differs_otherwise() -> None:
    """With Adam accuracy falls with the CV at each depth and rate; networks of SGD, fewer, would reverse it."""
    generator = np.random.default_rng(0)
    settings = [(depth, rate) for depth in range(3, 9) for rate in (1e-4, 1e-3, 1e-2)]
    depth_of, rate_of = (np.array(values) for values in zip(*settings, strict=True))
    spread = generator.uniform(0.1, 1, len(settings))
    adam = pd.DataFrame(
        {"depth": depth_of, "learning_rate": rate_of, "log_ratio_cv": spread, "optimizer": "adam"}
    ).assign(test_accuracy=0.9 - 0.1 * spread + 0.3 * (depth_of % 2) + 0.2 * (rate_of == 1e-3))
    sgd = adam[:12].assign(optimizer="sgd", test_accuracy=lambda rows: 10 * rows["log_ratio_cv"])
    table = pd.concat([adam, sgd], ignore_index=True).assign(
        family="fnn", dataset="mnist 10×10", width=100.0, training="joint", seed=1, last=True, train_accuracy=1.0
    )
    table = table.assign(D_last=0.1)
    remark, over_depths, _, _ = remarks_on_correlations(table.assign(r=-table["log_ratio_cv"]))
    assert "drawn again: MNIST 10×10" in over_depths
    correlation = float(remark.split("MNIST 10×10 ")[1].split()[0].replace("−", "-"))
    assert correlation < -0.8
    assert remark.endswith("18 settings.")
    assert remarks_on_correlations(table[:3].assign(r=-1.0)) == []


def test_networks_with_random_labels_or_on_another_draw_are_not_comparable() -> None:
    plain, random, drawn = (make_record(run, [8.0, 4.0, 2.0, 1.0]) for run in ("a", "b", "d"))
    drawn = replace(drawn, config=drawn.config | {"dataset": drawn.config["dataset"] | {"subset_seed": 1}})
    random = replace(random, config=random.config | {"dataset": random.config["dataset"] | {"label_seed": 0}})
    # Older records lack the field.
    older = {key: value for key, value in plain.config["dataset"].items() if key != "label_seed"}
    old = replace(plain, run="c", config=plain.config | {"dataset": older})
    table = summarise_runs(tabulate([plain, random, old, drawn])).table
    assert set(table.loc[table["run"] == "d", "dataset"]) == {"fashion_mnist 10×10, another draw"}
    assert set(table.loc[table["run"] == "b", "dataset"]) == {"fashion_mnist 10×10, random labels"}
    assert set(comparable(table)["run"]) == {"a", "c"}


@pytest.mark.parametrize("name", OVERVIEWS)
def test_each_script_writes_figure_table_and_verdict(name: str, store: Path, tmp_path: Path) -> None:
    assert overview(name).main([f"source={store}", f"results={tmp_path}"]) == 1
    record = json.loads((tmp_path / f"verdicts/{name}.json").read_text())
    # No network fits its data after two epochs.
    assert record["verdict"] == "not tested"
    assert (tmp_path / f"figures/{name}.png").stat().st_size > 10_000
    assert len(pd.read_csv(tmp_path / f"tables/{name}.csv")) == 4


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sauce=x"], ["sauce=x: ", "source=SOURCE"]),
        (["source=nowhere"], ["source=nowhere: "]),
        (["source=a", "source=b"], ["b: ", "once"]),
    ],
)
def test_invalid_arguments_are_an_error_of_one_line(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert overview("decay_ratio").main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert all(part in error for part in parts)
    assert "\n" not in error


def test_of_a_run_measured_per_layer_and_per_block_the_layers_count() -> None:
    record = make_record("a", [4.0, 2.0, 1.0])
    blocks = LayerRecord(2, "train", ("input", "block"), (4.0, 1.0), (9, 9), 10, 0.0, 1.0)
    measures = dict(record.measures) | {
        "b": Measurement(dict(record.measures["a"].settings) | {"view": "block"}, (blocks,))
    }
    (row,) = summarise_runs(tabulate([replace(record, measures=measures)])).table.to_dict("records")
    assert row["decay_ratio"] == pytest.approx(0.5)
