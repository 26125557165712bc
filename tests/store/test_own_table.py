"""A table of one's own: read like runs, its law fitted and drawn; what is no such table is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from equisep import load_laws, load_runs
from equisep.analysis.figures.law import make
from equisep.commands.main import main
from equisep.config import ConfigError
from equisep.measures import fit_law
from tests.conftest import run_one

ROWS = [
    {"run": run, "epoch": epoch, "layer": layer, "D": D, "seed": seed}
    for run, seed in (("a", 1), ("b", 2))
    for epoch, last in ((0, 15.0), (10, 2.0 + seed))
    for layer, D in enumerate((20.0, 9.0 + seed, last))
]


def write(path: Path, rows: object = ROWS) -> Path:
    table = pd.DataFrame(rows)
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_it_is_read_like_runs(tmp_path: Path, suffix: str) -> None:
    runs = load_runs(write(tmp_path / f"mine{suffix}"))
    assert {"run", "epoch", "split", "layer", "name", "D", "ratio", "convention", "state", "loss"} <= set(runs)
    assert set(runs["split"]) == {"train"}
    row = runs.query("run == 'b' and epoch == 10 and layer == 1").iloc[0]
    assert (row["D"], row["ratio"], row["seed"]) == (11.0, 11 / 20, 2)
    laws = load_laws(tmp_path / f"mine{suffix}")
    assert len(laws) == 4
    law = laws.query("run == 'a' and epoch == 10").iloc[0]
    assert law["r"] == fit_law([20.0, 10.0, 3.0]).pearson_r
    assert (law["D_first"], law["D_last"], law["seed"]) == (20.0, 3.0, 1)


def test_layers_may_be_names_in_the_order_of_the_network(tmp_path: Path) -> None:
    path = write(tmp_path / "net.csv", [{"layer": name, "D": D} for name, D in (("conv", 9), ("fc", 3), ("act", 1))])
    runs = load_runs(path)
    assert list(zip(runs["layer"], runs["name"], strict=True)) == [(0, "conv"), (1, "fc"), (2, "act")]
    assert set(runs["run"]) == {"net"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"layer": 0, "fuzziness": 1.0}], "has no column D; it needs layer and D"),
        ([{"D": 1.0}], "has no column layer"),
        ([{"layer": 0, "D": "small"}], "D=small: must be a number"),
        (
            [{"layer": 0, "D": 1.0}, {"layer": 0, "D": 2.0}],
            "layer 0 of run mine at epoch 0 is there twice; add a column",
        ),
        ([{"layer": n, "D": 1.0} for n in (0, 2, 3)], "layers of run mine are 0, 2, 3: must be consecutive"),
        ([{"layer": n + 0.5, "D": 1.0} for n in (0, 1)], "must be consecutive"),
        ([{"layer": 0, "D": -1.0}], "D=-1: must not be negative"),
        ([{"layer": 0, "D": 1.0, "loss": "low"}], "loss=low: must be a number"),
        ([{"layer": 0, "D": 1.0, "run": "a"}, {"layer": 1, "D": 1.0, "run": None}], "run is empty in row 2"),
    ],
)
def test_what_is_no_such_table_is_refused_in_one_line(tmp_path: Path, rows: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_runs(write(tmp_path / "mine.csv", rows))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_empty_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.csv: cannot be read \(No such file"):
        load_runs(tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_text("")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_runs(tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_text("layer,D\n")
    with pytest.raises(ConfigError, match="has no rows"):
        load_runs(tmp_path / "mine.csv")


def test_its_law_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.csv")
    assert main(["figure", "law", f"source={path}", f"results={tmp_path}"]) == 0
    laws = pd.read_csv(tmp_path / "tables/law.csv")
    assert laws["epoch"].tolist() == [10, 10]
    assert laws["r"].tolist() == pytest.approx([fit_law([20.0, 10.0, 3.0]).pearson_r, fit_law([20, 11, 4]).pearson_r])
    assert "train_loss" not in laws
    assert laws["seed"].tolist() == [1, 2]
    assert (tmp_path / "figures/law.png").exists()
    assert main(["figure", "law", f"source={path}", "epoch=0", "by=split", f"results={tmp_path}"]) == 0
    assert set(pd.read_csv(tmp_path / "tables/law.csv")["epoch"]) == {0}
    capsys.readouterr()
    for words, message in (
        (["by=sead"], "by=sead: no such column; did you mean seed?"),
        (["epoch=7"], "epoch=7: not measured; choose one of 0, 10"),
        (["seed=1"], "seed=1: use source=SOURCE, by=COLUMN, epoch=NUMBER and results=FOLDER, once each"),
    ):
        assert main(["figure", "law", f"source={path}", f"results={tmp_path}", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_law_of_a_store_is_drawn_by_a_field(configure: object, tmp_path: Path) -> None:
    results = f"results={tmp_path}"
    for depth in (4, 8):
        run_one(configure(f"architecture.depth={depth}", results))  # type: ignore[operator]
    result = make(load_runs(tmp_path), by="architecture.depth")
    titles = {axes.get_title("left") for axes in result.figure.axes}  # type: ignore[union-attr]
    assert {title.split("$  ")[-1] for title in titles if title} == {"depth 4", "depth 8"}
    # Networks of different depth have panels of their own.
    mixed = make(load_runs(tmp_path), by="seed")
    assert len(set(mixed.tables[""]["panel"])) == 2


def test_what_a_table_does_not_have_is_empty_or_left_out_and_said(tmp_path: Path) -> None:
    """A loss that is not told is no 0, and a line through some of the layers is another one."""
    rows = [
        *({"run": "told", "layer": layer, "D": D, "loss": 0.5} for layer, D in enumerate((9.0, 3.0, 1.0))),
        *({"run": "untold", "layer": layer, "D": D} for layer, D in enumerate((9.0, 4.0, 1.0))),
        *({"run": "holed", "layer": layer, "D": D} for layer, D in enumerate((9.0, None, 1.0))),
    ]
    result = make(load_runs(write(tmp_path / "mine.csv", rows)))
    table = result.tables[""].set_index("run")
    assert table.index.tolist() == ["told", "untold"]
    assert table["train_loss"].isna().tolist() == [False, True]
    assert "Left out: 1 run in which a layer has no D." in result.scope
    assert "as published" not in result.shows
    result = make(load_runs(write(tmp_path / "zero.csv", [{"layer": n, "D": float(n)} for n in range(2)])))
    assert result.figure is None
    assert "No picture: it needs D of two layers, positive and finite." in result.scope
