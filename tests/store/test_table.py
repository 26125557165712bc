"""equisep.load_laws: one row per run, epoch, split and measure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import equisep
from equisep.config import ConfigError, field_names
from equisep.measures import fit_law


def test_a_row_is_the_law_of_a_run_at_an_epoch_on_a_split_under_a_measure(trained: Path) -> None:
    laws = equisep.load_laws(trained)
    assert len(laws) == laws.drop_duplicates(["run", "measure", "epoch", "split"]).shape[0] == 4 * 3
    layers = equisep.load_runs(trained).sort_values("layer").groupby(["run", "measure", "epoch", "split"])
    for row in laws.to_dict("records"):
        group = layers.get_group(tuple(row[name] for name in ("run", "measure", "epoch", "split")))
        law = fit_law(group["D"].tolist())
        assert law is not None
        assert (row["D_first"], row["D_last"]) == (group["D"].iloc[0], group["D"].iloc[-1])
        assert [row[name] for name in ("r", "decay_ratio", "half_life", "residual", "curvature")] == [
            *(law.pearson_r, law.decay_ratio, law.half_life, law.relative_residual, law.relative_curvature),
        ]
        assert row["accuracy"] == group["accuracy"].iloc[0]
    settings = [name for name in field_names() if name.startswith(("architecture.", "optimizer.", "training.epochs"))]
    present = {name for name in settings if name in laws}
    assert {"architecture.depth", "architecture.width", "optimizer.kind", "optimizer.learning_rate"} <= present
    assert set(laws["seed"]) == {1, 2}


def test_the_mean_over_seeds_has_an_interval(trained: Path) -> None:
    laws = equisep.load_laws(trained)
    final = laws[(laws["epoch"] == 2) & (laws["split"] == "train") & (laws["optimizer.kind"] == "adam")]
    interval = equisep.interval(final["r"])
    assert (interval.n, interval.mean) == (2, pytest.approx(final["r"].mean()))
    assert interval.low <= interval.mean <= interval.high
    assert "95" in (equisep.interval.__doc__ or "")
    assert "coverage" in (equisep.interval.__doc__ or "").lower()


def test_a_source_without_measures_has_the_columns_and_no_rows(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "runs").mkdir()
    empty = equisep.load_laws(tmp_path)
    assert empty.empty
    assert {"run", "r", "decay_ratio", "half_life"} <= set(empty)
    assert isinstance(empty, pd.DataFrame)
    with pytest.raises(ConfigError, match="source=.*nowhere: neither a results folder"):
        equisep.load_laws(tmp_path / "nowhere")
