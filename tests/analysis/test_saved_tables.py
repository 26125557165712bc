"""Saved tables read as runs: the same rows as from the store, each run once, and what cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equisep.analysis.all_runs import CONVENTIONS, summarise_runs
from equisep.analysis.experiments import expand_experiment, last_epoch
from equisep.analysis.figures.catalogue import OVERVIEWS, REPRODUCTIONS
from equisep.analysis.pictures import inline_svg
from equisep.analysis.saved_tables import SavedTables, load_saved_runs, with_configs
from equisep.analysis.table_files import load_tables, save_tables
from equisep.analysis.tables import LAYERS_OF
from equisep.commands import reproduce as whole
from equisep.commands.main import main
from equisep.config import ConfigError
from equisep.execution.train import execute
from equisep.store import load_runs
from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with runs of two experiments, and their tables saved as in results/reference."""
    results = tmp_path_factory.mktemp("results")
    usual = [f"results={results}", "tracking=off", "training=smoke", "seed=1"]
    chosen = {
        "optimizers": [*usual, "architecture.depth=4", "optimizer=sgd,adam"],
        "controls": [*usual, "architecture.depth=4", "architecture=fnn"],
    }
    for name, overrides in chosen.items():
        execute([point.config for point in expand_experiment(name, overrides)])
        reproduction = REPRODUCTIONS[name]
        reproduction.make(reproduction.collect([overrides]), overrides).write(results)
        folder = results / "saved" / name
        folder.mkdir(parents=True)
        for path in (*results.glob(f"tables/{name}*.csv"), results / f"verdicts/{name}.json"):
            shutil.copy(path, folder)
    return results


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_saved_tables_give_the_rows_of_the_store(results: Path, convention: str) -> None:
    stored = summarise_runs(load_runs(results), convention).table
    saved = summarise_runs(load_saved_runs(results / "saved"), convention).table
    last, again = (table[table["last"]].sort_values("run", ignore_index=True) for table in (stored, saved))
    assert len(last) == 2  # a network is in both tables
    # The experiment that a run was first trained for, and the one whose table comes first.
    pd.testing.assert_frame_equal(again.drop(columns="experiment"), last.drop(columns="experiment"), rtol=1e-7)


def test_the_figures_over_all_runs_are_drawn_from_saved_tables(results: Path, tmp_path: Path) -> None:
    assert OVERVIEWS["decay_ratio"].main([f"tables={results / 'saved'}", f"results={tmp_path}"]) == 1
    assert json.loads((tmp_path / "verdicts/decay_ratio.json").read_text())["call"] == []
    assert len(pd.read_csv(tmp_path / "tables/decay_ratio.csv")) == 2 * len(CONVENTIONS)
    # Its panels follow the switch of conventions on the report's page.
    picture = inline_svg(tmp_path / "figures/decay_ratio.svg", "")
    for look in ("as_published", "evaluation_mode"):
        assert picture.count(f'<g data-look="{look}">') == 5


def test_saved_tables_complete_a_store(results: Path, tmp_path: Path) -> None:
    """A seed in a store and one in saved tables give the tables of a store with both."""
    chosen = [*("tracking=off", "training=smoke", "seed=1,2"), *("architecture.depth=4", "optimizer=sgd,adam")]
    reproduction, store = REPRODUCTIONS["optimizers"], tmp_path / "later"
    later = [point.config for point in expand_experiment("optimizers", [*chosen, "seed=2", f"results={store}"])]
    execute(later)
    saved = reproduction.saved(results / "saved/optimizers")
    assert reproduction.collect([chosen], str(store)).missing == 2
    completed = reproduction.collect([chosen], str(store), saved)
    for run in (results / "runs").iterdir():
        shutil.copytree(run, store / "runs" / run.name, dirs_exist_ok=True)
    whole = reproduction.collect([chosen], str(store))
    assert (completed.missing, whole.missing) == (0, 0)
    pd.testing.assert_frame_equal(completed.runs, whole.runs, check_dtype=False, rtol=1e-7)
    ordered = [*LAYERS_OF, "layer"]
    layers, expected = (tables.layers.sort_values(ordered, ignore_index=True) for tables in (completed, whole))
    pd.testing.assert_frame_equal(layers, expected, rtol=1e-7)
    # What the store has is taken from there.
    again = reproduction.collect([chosen], str(store), saved)
    pd.testing.assert_frame_equal(again.runs, whole.runs)


def test_what_saved_tables_hold_is_not_trained_again(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = {"optimizers": [["seed=1,2", "architecture.depth=4", "optimizer=sgd,adam", "training=smoke"]]}
    trained: list[tuple[str, ...]] = []

    def train(name: str, sweep: Sequence[str]) -> int:
        trained.append(tuple(sweep))
        execute([point.config for point in expand_experiment(name, sweep)])
        return 0

    monkeypatch.setattr(whole, "load_profile", lambda name: profile)
    monkeypatch.setattr(whole, "multiplication_rate", lambda config: 1e11)
    monkeypatch.setattr(whole, "train", train)
    words = [f"results={tmp_path}", "tracking=off", f"tables={results / 'saved'}"]
    assert main(["reproduce", "tiny", *words]) == 1
    assert [word for sweep in trained for word in sweep if word.startswith("seed=")] == ["seed=2", "seed=2"]
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert len(pd.read_csv(tmp_path / "tables/optimizers.csv")["run"].unique()) == 4
    assert "2 networks to train" in capsys.readouterr().out
    # Nothing is left to train.
    profile["optimizers"][0][0] = "seed=1"
    trained.clear()
    assert main(["reproduce", "tiny", *words]) == 1
    assert not trained
    assert main(["reproduce", "tiny", "tables=nowhere"]) == 2
    assert "tables=nowhere: must be set once, to a folder" in capsys.readouterr().err


def test_a_saved_run_is_known_by_its_configuration(results: Path, tmp_path: Path) -> None:
    """Overrides of fields without a column of their own, other measures and other lengths are other runs."""
    folder = results / "saved/optimizers"
    saved = with_configs(load_tables(folder, "optimizers"), folder, "optimizers")
    words = ["training=smoke", "seed=1", "architecture.depth=4", "optimizer=sgd,adam"]

    def held(saved: SavedTables, *overrides: str) -> list[bool]:
        points = [point.config for point in expand_experiment("optimizers", overrides)]
        return [saved.of(config, last_epoch(config.training)) is not None for config in points]

    assert held(saved, *words) == held(saved, *words, "measures=[evaluation]") == [True, True]
    one = expand_experiment("optimizers", [*words, "measures=[evaluation]"])[0].config
    rows = saved.of(one, last_epoch(one.training))
    assert rows is not None
    assert rows.runs["convention"].tolist() == ["evaluation"]
    others = ("seed=2", "robustness=standard", "dataset=mnist_10x10", "architecture.width=50", "dataset.subset_seed=1")
    others += ("optimizer.weight_decay=0", "training.batch_size=50", "measure.view=block", "measures=[paper,shuffled]")
    for other in others:
        assert held(saved, *words, other) == [False, False], other
    assert held(saved, *words[1:]) == [False, False]  # of another length
    # The places of data and results, and the number of processes, do not matter.
    assert held(saved, *words, "dataset.root=elsewhere", "compute.threads=1") == [True, True]
    published = saved.tables.runs["convention"] == "paper"
    tables = replace(saved.tables, runs=saved.tables.runs[published])
    save_tables({"": tables.runs, "_layers": tables.layers}, tmp_path, "optimizers")
    shutil.copy(folder / "optimizers.json", tmp_path)
    fewer = with_configs(load_tables(tmp_path, "optimizers"), tmp_path, "optimizers")
    assert held(fewer, *words) == [False, False]
    assert held(fewer, *words, "measures=[paper]") == [True, True]


def test_a_figure_of_other_networks_takes_none_from_saved_tables(results: Path, tmp_path: Path) -> None:
    usual = [f"results={tmp_path}", f"tables={results / 'saved/optimizers'}", "training=smoke", "seed=1"]
    chosen = [*usual, "architecture.depth=4", "optimizer=sgd,adam"]
    collect = REPRODUCTIONS["optimizers"]
    assert collect.main([*chosen, "architecture.width=50"]) == 1
    assert not (tmp_path / "tables").exists()
    assert collect.main(chosen) == 1  # conditions are missing, no runs
    assert len(pd.read_csv(tmp_path / "tables/optimizers.csv")) == 4


def test_permuted_layers_are_told_from_those_of_the_network(results: Path, tmp_path: Path) -> None:
    """An experiment with two measures of equal names for a network continues from its tables whole."""
    reproduction, folder = REPRODUCTIONS["controls"], results / "saved/controls"
    words = ["training=smoke", "seed=1", "architecture.depth=4", "architecture=fnn", f"results={tmp_path}"]
    stored = reproduction.collect([[*words, "tracking=off"]], str(results))
    completed = reproduction.collect([words], saved=reproduction.saved(folder))
    assert completed.missing == stored.missing == 0
    pd.testing.assert_frame_equal(completed.runs, stored.runs, check_dtype=False, rtol=1e-7)
    pd.testing.assert_frame_equal(completed.layers, stored.layers, check_dtype=False, rtol=1e-7)
    curves = [stored.fuzziness(row) for row in stored.runs.to_dict("records")]
    assert {len(curve) for curve in curves} == {4}
    assert [completed.fuzziness(row) for row in completed.runs.to_dict("records")] == [
        pytest.approx(curve, rel=1e-7) for curve in curves
    ]


def test_a_robustness_evaluation_is_taken_with_its_network(tmp_path: Path) -> None:
    """Also where the store has no run at all."""
    words = ["tracking=off", "training=smoke", "seed=1", "architecture.depth=4", "optimizer.learning_rate=1e-3"]
    words += ["robustness.input_noise=[0.1]", "robustness.draws=2"]
    reproduction = REPRODUCTIONS["robustness"]
    chosen = [*words, f"results={tmp_path}"]
    execute([point.config for point in expand_experiment("robustness", chosen)])
    stored = reproduction.collect([chosen])
    reproduction.make(stored, chosen).write(tmp_path)
    saved = tmp_path / "saved"
    saved.mkdir()
    for path in (*tmp_path.glob("tables/robustness*.csv"), tmp_path / "verdicts/robustness.json"):
        shutil.copy(path, saved)
    elsewhere = [*words, f"results={tmp_path / 'empty'}"]
    completed = reproduction.collect([elsewhere], saved=reproduction.saved(saved))
    assert completed.missing == 0
    pd.testing.assert_frame_equal(completed.perturbed, stored.perturbed, check_dtype=False, rtol=1e-7)
    other = reproduction.collect([[*elsewhere, "robustness.draws=3"]], saved=reproduction.saved(saved))
    assert (other.missing, len(other.perturbed)) == (1, 0)


@pytest.mark.slow
def test_the_reference_results_over_all_runs_are_judged_again() -> None:
    runs = load_saved_runs(REFERENCE)
    for path in REFERENCE.glob("*/*_layers.csv"):
        table = pd.read_csv(path.with_name(path.name.replace("_layers", "")), dtype={"run": str})
        # Layers in another order are no network's.
        if {"convention", "r"} <= set(table) and "permutation_seed" not in table:
            read = summarise_runs(runs[runs["run"].isin(table["run"])]).table
            both = read.merge(table[table["convention"] == "paper"], on=["run", "epoch"], suffixes=("", "_saved"))
            both = both[both["r_saved"].notna() & (both["view"] == "layer")]
            np.testing.assert_allclose(both["r"], both["r_saved"], rtol=1e-6)
    for name, overview in OVERVIEWS.items():
        before = json.loads((REFERENCE / name / f"{name}.json").read_text())
        again = json.loads(json.dumps(overview.make(runs).record()))
        for verdict in (*again["verdicts"].values(), *before["verdicts"].values()):
            for finding in verdict["findings"]:
                for key in ("mean", "low", "high"):
                    finding[key] = pytest.approx(finding[key], rel=1e-5) if finding[key] is not None else None
        assert again["verdicts"] == before["verdicts"]


def small_tables(results: Path, tmp_path: Path, *, identified: bool = True) -> Path:
    """Return a folder with a copy of the tables of optimizers; identified: with the hash of each row's config."""
    folder = tmp_path / "optimizers"
    shutil.copytree(results / "saved/optimizers", folder)
    if not identified:
        table = pd.read_csv(folder / "optimizers.csv", dtype=str).drop(columns="config")
        table.to_csv(folder / "optimizers.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (["training=brief"], "training=brief"),
        (["training=smoke architecture.width=50", "training=smoke"], "width=50 is recorded for some runs"),
        (["training=smoke", "architecture.width=50", "architecture.width=60"], "width=60 are both recorded"),
        ("training=smoke", "cannot be read .call is no list of words"),
        (["'"], "cannot be read .No closing quotation"),
        (["training=smoke", "architecture.width=50"], ""),
        ([], ""),
    ],
)
def test_a_record_that_does_not_fit_the_table_is_refused(
    results: Path, tmp_path: Path, call: object, problem: str
) -> None:
    """With the hash of each row's config also one that says nothing or something else."""
    folder = small_tables(results, tmp_path)
    (folder / "optimizers.json").write_text(json.dumps({"experiment": "optimizers", "call": call}))
    with pytest.raises(ConfigError, match=problem or "has another configuration than optimizers.json") as raised:
        load_saved_runs(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_tables_of_another_experiment_or_without_a_record_are_refused(results: Path, tmp_path: Path) -> None:
    folder = small_tables(results, tmp_path, identified=False)
    record = folder / "optimizers.json"
    # Words that no run depends on are no reason to refuse.
    record.write_text(
        '{"call": ["training=smoke hydra/launcher=basic source=wandb:a/b profile=cpu compute.threads=1"]}'
    )
    assert set(load_saved_runs(tmp_path)["training.epochs"]) == {2}
    record.write_text('{"experiment": "width", "call": ["training=smoke"]}')
    with pytest.raises(ConfigError, match=r"optimizers\.json is of experiment=width"):
        load_saved_runs(tmp_path)
    record.write_text("{")
    with pytest.raises(ConfigError, match=r"optimizers\.json cannot be read"):
        load_saved_runs(tmp_path)
    record.unlink()
    with pytest.raises(ConfigError, match="it is not known how optimizers.csv was made"):
        load_saved_runs(tmp_path)
    record.mkdir()
    with pytest.raises(ConfigError, match=r"optimizers\.json cannot be read \(Is a directory\)"):
        load_saved_runs(tmp_path)


def test_a_result_drawn_from_tables_keeps_the_words_that_made_it(results: Path, tmp_path: Path) -> None:
    folder = small_tables(results, tmp_path)
    before = json.loads((folder / "optimizers.json").read_text())["call"]
    assert REPRODUCTIONS["optimizers"].main([f"tables={folder}", f"results={tmp_path}"]) == 1
    assert json.loads((tmp_path / "verdicts/optimizers.json").read_text())["call"] == before
    assert "training=smoke" in before


def test_runs_without_layers_are_not_compared_silently(results: Path, tmp_path: Path) -> None:
    path = small_tables(results, tmp_path) / "optimizers_layers.csv"
    pd.read_csv(path, dtype=str)[:0].to_csv(path, index=False)
    with pytest.raises(ConfigError, match="2 runs have no layers in optimizers_layers.csv"):
        load_saved_runs(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda runs, layers: (runs.drop(columns="optimizer"), layers), "has no column optimizer"),
        (lambda runs, layers: (runs[:0], layers), "optimizers.csv has no rows"),
        (lambda runs, layers: (runs, layers[:-1]), "has 3 of 4 layers in optimizers_layers.csv"),
        (lambda runs, layers: (runs, layers[:0]), "4 rows have no layers in optimizers_layers.csv"),
        (lambda runs, layers: (runs, layers[4:]), "1 rows have no layers in optimizers_layers.csv"),
        (lambda runs, layers: (runs.assign(view=""), layers), "has a row without view: the file is damaged"),
        (lambda runs, layers: (runs.assign(epoch="two"), layers), "epoch=two: must be a number"),
        (lambda runs, layers: (runs.assign(epoch=1.5), layers), "epoch=1.5: must be an integer"),
        (lambda runs, layers: (runs.assign(r="straight"), layers), "r=straight: must be a number"),
        (lambda runs, layers: (runs, layers.assign(D="small")), "D=small: must be a number"),
        (lambda runs, layers: (pd.concat([runs, runs[:1]]), layers), "is there twice, paper at epoch"),
        (lambda runs, layers: (runs.assign(r="-1.7"), layers), "r=-1.7, but its layers give -0."),
        (lambda runs, layers: (runs.assign(r=""), layers), "r=nan, but its layers give -0."),
        (lambda runs, layers: (runs, layers.assign(D="1")), "but its layers give 1; the file is damaged"),
        (lambda runs, layers: (runs, layers.assign(D="-1")), "but its layers give nan; the file is damaged"),
        (lambda runs, layers: (runs.assign(depth="deep"), layers), "architecture.depth=deep: must be an integer"),
    ],
)
def test_a_damaged_table_is_an_error_of_one_line(
    results: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = small_tables(results, tmp_path)
    paths = [folder / f"optimizers{suffix}.csv" for suffix in ("", "_layers")]
    for path, table in zip(paths, change(*(pd.read_csv(path, dtype=str) for path in paths)), strict=True):
        table.to_csv(path, index=False)
    words = ["training=smoke", "seed=1", "architecture.depth=4", "optimizer=sgd,adam", f"results={tmp_path}"]
    assert main(["figure", "optimizers", *words, f"tables={folder}"]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda table: table[table["convention"] == "evaluation"], "Measured without paper."),
        (
            lambda table: table[table["optimizer"] == "sgd"] if "optimizer" in table else table,
            "Not all runs of the result that the tables belong to, or others. Its Scope: 2 networks",
        ),
        (
            lambda table: table.assign(lock="aaaaaaaaaaaa") if "lock" in table else table,
            "2 with lock aaaaaaaaaaaa, torch",
        ),
        (lambda table: table.rename(columns={"log_ratio_cv": "ratio_inequality"}), ""),
    ],
)
def test_tables_of_other_runs_or_versions_are_drawn_and_it_is_said(
    results: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    note: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = small_tables(results, tmp_path)
    for path in (folder / "optimizers.csv", folder / "optimizers_layers.csv"):
        change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)
    assert main(["figure", "optimizers", f"tables={folder}", f"results={tmp_path}"]) == 1
    assert (tmp_path / "figures/optimizers.png").exists()
    assert note in capsys.readouterr().out


def test_what_is_no_folder_of_tables_is_an_error_of_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no folder NAME with a table"):
        load_saved_runs(tmp_path)
    record = results / "saved/optimizers/optimizers.json"
    with pytest.raises(ConfigError, match=r"cannot be read \(Not a directory\)"):
        load_tables(record, "optimizers")
    (tmp_path / "optimizers").write_text("a file")
    for words, problem in (
        (["reproduce", "headline", "tables="], "tables=: must be set once, to a folder of saved tables"),
        (["reproduce", "headline", f"tables={tmp_path}"], "cannot be read (Not a directory)"),
    ):
        assert main(words) == 2
        assert problem in capsys.readouterr().err
