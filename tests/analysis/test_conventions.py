"""The experiments conventions and normalisation: statistics from tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equisep.analysis.experiments import expand_experiment
from equisep.analysis.figures import conventions, normalisation
from equisep.analysis.figures.panels import Part, drawn_parts
from equisep.analysis.tables import Tables, collect_tables
from equisep.config import ALL_CONVENTIONS
from equisep.execution.train import execute
from equisep.plots import EVALUATION, ONE_CONVENTION, PAPER


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """One small network after two epochs, measured under every convention of the experiment."""
    results = tmp_path_factory.mktemp("results")
    overrides = ["training=smoke", "tracking=off", "seed=1", f"results={results}", "architecture.depth=4"]
    points = expand_experiment("conventions", [*overrides, "measure.batch_size=100,1000"])
    execute([point.config for point in points])
    return collect_tables(points)


def test_floors_are_differences_to_running_statistics(tables: Tables) -> None:
    assert len(tables.runs) == 18
    assert tables.runs["run"].nunique() == 1
    found = conventions.floors(tables, tables.runs)
    curves = {row["convention"]: tables.fuzziness(row) for row in tables.runs.to_dict("records")}
    running, batch, expected = (
        np.array(curves[name][1:]) for name in ("running, stored, 100", "paper", "expected, stored, 100")
    )
    assert found["layer"].tolist() == [1, 2, 3]
    assert found["measured"].tolist() == pytest.approx((batch - running).tolist())
    assert found["predicted"].tolist() == pytest.approx((expected - running).tolist())
    (row,) = conventions.statistics(tables, tables.runs).to_dict("records")
    measured, predicted = (batch - running)[-1], (expected - running)[-1]
    # After two epochs the running statistics may be further off than those of batches.
    ratio = predicted / measured if measured > 0 else math.nan
    assert row["floor_ratio"] == pytest.approx(ratio, nan_ok=True)
    assert row["floor_share"] == pytest.approx((batch - running)[-1] / batch[-1])


def test_one_batch_of_all_images_has_the_same_d_in_every_order(tables: Tables) -> None:
    """Then the statistics of the batch and those expected of its classes are the same, too."""
    whole = tables.runs[(tables.runs["batch_size"] == 1000) & (tables.runs["batch_norm"] != "running")]
    curves = np.array(tables.curves(whole))
    assert len(curves) == 6
    assert curves == pytest.approx(np.broadcast_to(curves[0], curves.shape), rel=1e-4)


def test_the_figure_has_all_conventions_in_one(tables: Tables, tmp_path: Path) -> None:
    result = conventions.REPRODUCTION.make(tables)
    assert list(result.verdicts) == ["all conventions"]
    assert result.figure is not None
    result.write(tmp_path)
    assert (tmp_path / "figures/conventions.png").stat().st_size > 20_000


def test_panels_of_what_was_not_measured_say_so(tables: Tables, tmp_path: Path) -> None:
    result = conventions.REPRODUCTION.make(tables.under("evaluation"))
    assert result.statuses == ("not tested",)
    result.write(tmp_path)
    assert (tmp_path / "figures/conventions.svg").read_text().count("not measured") == 4


def test_networks_without_batch_normalisation_are_compared_with_those_with_it() -> None:
    rows = pd.DataFrame(
        {
            "run": list("abcd"),
            "architecture": ["fnn", "fnn", "fnn_layer_norm", "fnn_kaiming"],
            "depth": [8, 4, 8, 8],
            "seed": 1,
            "epoch": 600,
            "log_ratio_cv": [0.2, 0.1, 0.5, 0.15],
            "r": [-0.99, -0.999, -0.95, -0.995],
            "train_accuracy": [1.0, 1.0, 0.95, 0.5],
        }
    )
    found = normalisation.statistics(Tables(rows, rows, 0), rows).set_index("architecture")
    assert found["cv_gain"].to_dict() == pytest.approx({"fnn_layer_norm": 0.3, "fnn_kaiming": -0.05})
    assert found["r_gain"].to_dict() == pytest.approx({"fnn_layer_norm": 0.04, "fnn_kaiming": -0.005})
    assert found["train_accuracy"].to_dict() == {"fnn_layer_norm": 0.95, "fnn_kaiming": 0.5}


def test_networks_without_batch_norm_belong_to_every_convention_and_are_drawn_once() -> None:
    rows = pd.DataFrame({"run": ["a", "a", "b"], "convention": ["paper", "evaluation", ALL_CONVENTIONS]})
    tables = Tables(rows, rows, 0, perturbed=rows.head(0))
    assert tables.conventions == ("paper", "evaluation")
    assert tables.under("evaluation").runs["run"].tolist() == ["a", "b"]
    assert tables.under("paper").runs["run"].tolist() == ["a", "b"]
    parts = {name: Part(tables, tables.under(name).runs) for name in tables.conventions}
    drawn = [(look, part.rows["run"].tolist()) for look, part in drawn_parts(parts)]
    assert drawn == [(PAPER, ["a"]), (EVALUATION, ["a"]), (ONE_CONVENTION, ["b"])]
    alone = Tables(rows[2:], rows[2:], 0, perturbed=rows.head(0))
    assert alone.conventions == (ALL_CONVENTIONS,)
    (one,) = drawn_parts({ALL_CONVENTIONS: Part(alone, alone.under(ALL_CONVENTIONS).runs)})
    assert (one[0], one[1].rows["run"].tolist()) == (ONE_CONVENTION, ["b"])
    assert Tables(rows[:1], rows[:1], 0, perturbed=rows.head(0)).under("evaluation").runs.empty
