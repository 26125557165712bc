"""Every experiment: its file, its script, its row in docs/results.md, its figure, table and verdict."""

from __future__ import annotations

import hashlib
import json
import math
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from equisep.analysis.claims import load_claims
from equisep.analysis.experiments import expand_experiment, load_profile
from equisep.analysis.figures.catalogue import REPRODUCTIONS, at_best_and_published_rate
from equisep.analysis.figures.depths import rise_beyond_best_depth
from equisep.analysis.figures.out_of_sample import compare
from equisep.analysis.figures.robustness import correlate
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.result import former_verdicts
from equisep.analysis.table_files import load_tables
from equisep.analysis.tables import Tables
from equisep.analysis.verdicts import judge
from equisep.commands import reproduce as whole
from equisep.commands.main import main
from equisep.config import ALL_CONVENTIONS, ConfigError, Tracking, conf_folder
from equisep.data import DataUnavailable
from equisep.execution import mirror_store
from equisep.execution.train import execute
from equisep.store import all_runs
from tests.conftest import ROOT
from tests.data.test_dataset import DEVELOPMENT_DATA
from tests.processes import call
from tests.store.test_readers import wait_for_logs

EXPERIMENTS = sorted(file.stem for file in (conf_folder() / "experiment").glob("*.yaml"))
CIFAR = {"depth_cifar10", "frozen", "original_size", "vgg13", "alexnet", "densenet"}
# A small sweep of each experiment: two epochs, one seed, one rate, few of the conditions.
SMOKE = ["training=smoke", "tracking=off", "seed=1"]
SMALL = {
    "optimizers": ["architecture.depth=4"],
    "emergence": ["architecture.depth=8"],
    "learning_rate": ["optimizer.learning_rate=.01,.1"],
    "frozen": ["training=smoke,frozen_smoke", "optimizer.learning_rate=1e-3"],
    "out_of_sample": ["training=smoke,frozen_smoke", "optimizer.learning_rate=1e-3", "dataset=fashion_mnist_10x10"],
    "controls": ["architecture.depth=4"],
    "conventions": ["architecture.depth=4", "measure.order=stored", "measure.batch_size=100"],
    "normalisation": ["architecture.depth=4", "architecture=fnn,fnn_layer_norm", "optimizer.learning_rate=1e-3"],
    "robustness": [
        *("architecture.depth=4", "optimizer.learning_rate=1e-3"),
        *("robustness.draws=2", "robustness.test_images=100"),
    ],
    "original_size": ["architecture.depth=4", "architecture.width=100", "optimizer.learning_rate=1e-3"],
    "width": ["architecture.width=20,100", "optimizer.learning_rate=1e-3"],
    "subsets": ["architecture.depth=4", "optimizer=sgd", "dataset.subset_seed=1,2"],
    "channel_scale": ["architecture=alexnet", "architecture.width_multiplier=0.125", "optimizer.learning_rate=1e-3"],
    "vgg13": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "alexnet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "densenet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.25"],
}
# A residual network at 32×32 pixels needs minutes to be measured.
RESIDUAL = ("resnet_two_layer", "resnet_three_layer", "resnet_mixed")
SMALL |= {name: ["optimizer.learning_rate=1e-3", "dataset=fashion_mnist_10x10"] for name in RESIDUAL}


def reproduction_of(name: str) -> Reproduction:
    return REPRODUCTIONS[name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_script_a_row_in_the_results_and_is_in_the_profiles(name: str) -> None:
    assert reproduction_of(name).name == name
    script = (ROOT / f"reproduce/{name}.py").read_text()
    assert f"python -m equisep -m experiment={name} && python reproduce/{name}.py" in script
    assert re.search(rf"^\| `{name}` \|", (ROOT / "docs/results.md").read_text(), flags=re.MULTILINE)
    for profile in ("cpu", "paper", "reference"):
        assert name in load_profile(profile)


def test_profiles_have_known_experiments_and_the_headline_needs_only_fashion_mnist() -> None:
    for profile in ("headline", "cpu", "paper", "reference"):
        assert set(load_profile(profile)) <= set(EXPERIMENTS)
    assert list(load_profile("headline")) == ["optimizers", "emergence", "depth_fashion_mnist"]
    with pytest.raises(ConfigError, match="profile=gpu: .*choose one of cpu, headline, paper, reference"):
        load_profile("gpu")


def overrides_of(name: str, results: Path) -> list[str]:
    data = []
    if name in CIFAR:
        # Only the colour data sets of the development data, also where an experiment has grey ones.
        data = ["dataset.source=folder", f"dataset.root={DEVELOPMENT_DATA}"]
        size = "10x10" if name in ("depth_cifar10", "frozen") else "32x32"
        data.append(f"dataset=cifar10_{size}")
    if name == "depth_mnist":
        # In a folder of the test, since prepared data are stored beside the data set.
        (results / "data").mkdir()
        (results / "data/MNIST").symlink_to(f"{DEVELOPMENT_DATA}/MNIST")
        data = [f"dataset.root={results}/data"]
    rate = [] if name in ("optimizers", "emergence", *SMALL) else ["optimizer.learning_rate=1e-3"]
    return [*SMOKE, f"results={results}", *rate, *SMALL.get(name, []), *data]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_gives_figure_table_and_verdict(name: str, tmp_path: Path) -> None:
    if name in CIFAR | {"depth_mnist"} and not DEVELOPMENT_DATA:
        pytest.skip("EQUISEP_TEST_DATA is not set to a folder with MNIST and CIFAR-10")
    overrides = overrides_of(name, tmp_path)
    assert main(["-m", f"experiment={name}", *overrides]) == 0
    reproduction = reproduction_of(name)
    tables = reproduction.collect([overrides])
    assert tables.missing == 0
    result = reproduction.make(tables)
    result.write(tmp_path)
    record = json.loads((tmp_path / f"verdicts/{name}.json").read_text())
    # With part of the conditions or two epochs the claim is not judged.
    assert record["verdict"] == result.words == "not tested"
    conventions = [ALL_CONVENTIONS] if name == "no_batch_norm" else ["paper", "evaluation"]
    if name == "conventions":
        assert list(record["verdicts"]) == ["all conventions"]
        assert list(tables.conventions) == ["paper", "running, stored, 100", "expected, stored, 100"]
    else:
        assert list(record["verdicts"]) == list(tables.conventions) == conventions
    for verdict in record["verdicts"].values():
        assert re.search("conditions are missing|trained for 2 epochs, the experiment has", verdict["statistics"])
    # Its statistics are computed nevertheless, but for a comparison at equal loss, for which one seed is too few.
    if name != "out_of_sample":
        claim = load_claims()[name]
        part = list(reproduction.parts(tables).values())[-1]
        statistics = reproduction.statistics(part.tables, part.rows) if reproduction.statistics else part.rows
        conditions = [column for column in (*reproduction.conditions, "choice") if column in statistics]
        judged = judge(claim, statistics, conditions)
        expected = {criterion.statistic for criterion in claim.criteria}
        assert claim.rule == "none" or {finding.criterion.statistic for finding in judged.findings} >= expected
    with Image.open(tmp_path / f"figures/{name}.png") as image:
        assert min(image.size) > 300
    assert (tmp_path / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / f"figures/{name}.md").read_text() == result.caption()
    assert len(pd.read_csv(tmp_path / f"tables/{name}.csv")) == len(tables.runs)
    if name in CIFAR:
        assert "1,000 test images" in record["scope"]
    if name in ("vgg13", "alexnet"):
        assert "0.125 of the paper's channels and units" in record["scope"]
    assert ("full text was not at hand" in record["scope"]) != load_claims()[name].full_text
    # The same tables from the wandb logs.
    mirror_store(tmp_path, Tracking(mode="offline", project="equisep"))
    wait_for_logs(tmp_path)
    logged = reproduction.collect([overrides], str(tmp_path / "wandb"))
    pd.testing.assert_frame_equal(logged.runs, tables.runs, check_exact=True)
    pd.testing.assert_frame_equal(logged.layers, tables.layers, check_exact=True)
    pd.testing.assert_frame_equal(logged.perturbed, tables.perturbed, check_exact=True)
    assert bool(len(tables.perturbed)) == (name == "robustness")
    # Compared as text since a statistic of one seed may be NaN, which is not equal to itself.
    assert repr(reproduction.judge(logged)) == repr(result.verdicts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_partial_result_is_written_beside_a_verdict_and_never_over_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = f"tables={ROOT}/results/reference/width"
    assert main(["figure", "width", tables, f"results={tmp_path}"]) == 0
    whole = contents(tmp_path)
    assert set(whole) == {
        *(f"figures/width.{kind}" for kind in ("png", "pdf", "svg", "md")),
        *(f"tables/width{suffix}.csv" for suffix in ("", "_layers", "_statistics", "_course")),
        "verdicts/width.json",
    }
    record = json.loads(whole["verdicts/width.json"])
    # Those with which the tables were made; a result does not depend on where its tables lie.
    assert record["call"] == json.loads((ROOT / "results/reference/width/width.json").read_text())["call"]
    assert record["claims"] == hashlib.sha256((conf_folder() / "claims.yaml").read_bytes()).hexdigest()[:12]
    capsys.readouterr()
    assert main(["figure", "width", "seed=1", f"results={tmp_path}"]) == 1
    assert (
        f"verdicts/width.json has a verdict and is kept; this result is in {tmp_path}/partial"
        in capsys.readouterr().out
    )
    partial = {name: data for name, data in contents(tmp_path).items() if name not in whole}
    assert set(partial) == {"partial/verdicts/width.json"}
    assert {name: data for name, data in contents(tmp_path).items() if name in whole} == whole
    record = json.loads(partial["partial/verdicts/width.json"])
    assert (record["verdict"], record["call"]) == ("not tested", ["seed=1"])
    assert record["verdicts"]["paper"]["statistics"].startswith("15 runs are missing")


def test_figure_and_tables_of_an_earlier_unjudged_result_are_removed(tmp_path: Path) -> None:
    reproduction = reproduction_of("width")
    whole = load_tables(ROOT / "results/reference/width", "width")
    shallow = whole.runs["width"] == 20
    kept = whole.layers["run"].isin(whole.runs.loc[shallow, "run"])
    reproduction.make(Tables(whole.runs[shallow], whole.layers[kept], 0)).write(tmp_path)
    assert (tmp_path / "figures/width.png").exists()
    empty = reproduction.collect([[f"results={tmp_path}", "seed=1"]])
    result = reproduction.make(empty)
    result.write(tmp_path)
    assert result.words == "not tested"
    assert list(contents(tmp_path)) == ["verdicts/width.json"]
    record = json.loads((tmp_path / "verdicts/width.json").read_text())
    assert record["verdicts"]["paper"]["statistics"].startswith("15 runs")


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = reproduction_of("width")
    whole = load_tables(ROOT / "results/reference/width", "width")
    reproduction.make(whole).write(tmp_path)
    before = contents(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("equisep.analysis.result.save_tables", full)
    with pytest.raises(ConfigError, match="results=.*: No space left on device; choose a writable folder"):
        reproduction.make(whole, ["another=call"]).write(tmp_path)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"figures", "tables", "verdicts"}


def test_an_experiment_without_a_claim_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {name: claim for name, claim in load_claims().items() if name != "width"}
    monkeypatch.setattr("equisep.analysis.reproduction.load_claims", lambda: others)
    assert main(["figure", "width", f"tables={ROOT}/results/reference/width", f"results={tmp_path}"]) == 0
    assert "width: verdict, paper: no claim stated for this experiment in conf/claims.yaml" in capsys.readouterr().out
    assert json.loads((tmp_path / "verdicts/width.json").read_text())["verdict"] == "no claim"
    assert (tmp_path / "figures/width.png").exists()
    # It does not replace the verdict of an earlier claim.
    earlier = json.dumps({"verdicts": {"paper": {"verdict": "reproduced"}}})
    (tmp_path / "verdicts/width.json").write_text(earlier)
    assert main(["figure", "width", f"tables={ROOT}/results/reference/width", f"results={tmp_path}"]) == 0
    assert (tmp_path / "verdicts/width.json").read_text() == earlier
    assert json.loads((tmp_path / "partial/verdicts/width.json").read_text())["verdict"] == "no claim"


def test_a_result_does_not_record_where_files_lie(tmp_path: Path) -> None:
    tables = load_tables(ROOT / "results/reference/width", "width")
    call = ["dataset.root=/data", f"results={tmp_path}", "seed=range(666,669)"]
    assert reproduction_of("width").make(tables, call).record()["call"] == ["seed=range(666,669)"]


def test_within_networks_settings_are_the_cases_and_seeds_are_not() -> None:
    tables = load_tables(ROOT / "results/reference/robustness", "robustness")
    (row,) = correlate(tables.under("paper"), tables.under("paper").runs).to_dict("records")
    deep = tables.runs[tables.runs["depth"] > 4]
    assert row["layer_sensitivity_with_ratio"].n == len(deep[["depth", "learning_rate"]].drop_duplicates()) == 10
    assert row["seeds"] == 5
    shallow = replace(tables.under("paper"), runs=tables.runs[tables.runs["depth"] == 4])
    (row,) = correlate(shallow, shallow.runs[shallow.runs["convention"] == "paper"]).to_dict("records")
    assert math.isnan(row["layer_sensitivity_with_ratio"].mean)


def test_all_figures_of_a_folder_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("width", "vgg13"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / f"tables/{name}").symlink_to(ROOT / f"results/reference/{name}")
    assert main(["figure", "all", f"tables={tmp_path}/tables", f"results={tmp_path}/drawn"]) == 0
    assert {path.stem for path in (tmp_path / "drawn/figures").glob("*.png")} == {"width", "vgg13"}
    assert capsys.readouterr().out.count("verdict, paper: ") == 2


def test_tables_without_a_condition_of_the_figure_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "results/reference/width", tmp_path / "width")
    table = pd.read_csv(tmp_path / "width/width.csv", dtype=str).drop(columns="width")
    table.to_csv(tmp_path / "width/width.csv", index=False)
    assert main(["figure", "width", f"tables={tmp_path}/width", f"results={tmp_path}"]) == 2
    assert "the table of runs has no column width, by which this figure" in capsys.readouterr().err


def test_a_script_names_missing_runs_and_how_to_train_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce/width.py", f"results={tmp_path}", "seed=1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "reproduce/width.py"), run_name="__main__")
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert (
        "15 runs are missing or not measured under every convention; these commands train or measure them:"
        in printed.err
    )
    assert f"\n  equisep -m experiment=width results={tmp_path} seed=1\n" in printed.err
    assert "verdict, paper: not tested: 15 runs" in printed.out
    assert json.loads((tmp_path / "verdicts/width.json").read_text())["verdict"] == "not tested"
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["architecture.dept=3"], "architecture.dept: "),
        (["profile=gpu"], "choose one of cpu, headline, paper, reference"),
        (["profile=headline"], "profile=headline: does not include"),
        (["tables=nowhere"], "nowhere/width.csv cannot be read (No such file or directory)"),
        (["tables=nowhere", "seed=1"], "nowhere/width.csv cannot be read (No such file or directory)"),
        (["seed"], "seed: unknown argument; use KEY=VALUE"),
        (["architecture.depth=4,8"], "depth=4,8: this figure does not vary depth; choose one value"),
    ],
)
def test_invalid_arguments_of_a_script_are_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert reproduction_of("width").main([f"results={tmp_path}", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# The experiment controls has other networks since its reference results.
REFERENCE = sorted(
    folder.parent.name
    for folder in (ROOT / "results/reference").glob("*/*_layers.csv")
    if folder.parent.name != "controls"
)


def test_the_headline_has_reference_results() -> None:
    assert {"optimizers", "emergence", "depth_fashion_mnist"} <= set(REFERENCE)


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_results_are_judged_again_by_the_rules_of_today(name: str) -> None:
    """Some still have the verdicts of the former rules, which are kept beside the new ones."""
    folder = ROOT / "results/reference" / name
    result = reproduction_of(name).make(load_tables(folder, name))
    assert result.figure is not None
    before = json.loads((folder / f"{name}.json").read_text())
    if "verdicts" in before:
        again = json.loads(json.dumps(result.record()["verdicts"]))
        for verdict in (*again.values(), *before["verdicts"].values()):
            for finding in verdict["findings"]:
                # The tables have nine digits.
                for key in ("mean", "low", "high"):
                    finding[key] = pytest.approx(finding[key], rel=1e-5) if finding[key] is not None else None
        assert again == before["verdicts"]
        return
    assert list(result.verdicts) == ["paper"]
    assert set(result.statuses) <= {"reproduced", "partly", "contradicted", "undecided"}
    record = result.record()
    assert record["former"] == former_verdicts()[name]
    assert record["former"].startswith(before["verdict"])
    # What was measured is the same: each mean of a statistic that both have.
    means = {(row["condition"], row["statistic"]): row["mean"] for row in record["verdicts"]["paper"]["findings"]}
    for row in before["findings"]:
        key = (row["condition"], row["statistic"])
        # r is averaged otherwise, and so are correlations within a network.
        if key in means and not row["statistic"].startswith(("r", "layer_")) and means[key] is not None:
            assert means[key] == pytest.approx(row["mean"], rel=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_results_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    folder = ROOT / "results/reference" / name
    assert reproduction_of(name).main([f"tables={folder}", f"results={tmp_path}"]) == 0
    with Image.open(tmp_path / f"figures/{name}.png") as image:
        assert min(image.size) > 300


def test_an_unavailable_data_set_is_named_and_other_experiments_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {
        "depth_mnist": [["seed=1"]],
        "width": [["seed=1", "optimizer.learning_rate=1e-3", "architecture.width=20"]],
    }
    prepare = whole.prepare

    def no_mnist(config):  # type: ignore[no-untyped-def]
        if config.dataset.name == "mnist":
            raise DataUnavailable("mnist could not be downloaded")
        return prepare(config)

    monkeypatch.setattr(whole, "load_profile", lambda name: small)
    monkeypatch.setattr(whole, "prepare", no_mnist)
    monkeypatch.setattr(whole, "multiplication_rate", lambda config: 1e11)
    monkeypatch.setattr(whole, "train", lambda name, sweep: call("-m", f"experiment={name}", *sweep).code)
    code = main(["reproduce", "tiny", *SMOKE, f"results={tmp_path}"])
    output = capfd.readouterr()
    assert code == 1
    assert re.search(r"depth_mnist +45 +0 +not run", output.out)
    assert "1 networks to train, about 0.0 h" in output.out
    assert "depth_mnist: mnist could not be downloaded" in output.err
    table = pd.read_csv(tmp_path / "tables/verdicts.csv", index_col="experiment")
    assert table.loc["depth_mnist", "verdict"] == "not tested"
    assert table.loc["width", "convention"].tolist() == ["paper", "evaluation"]
    assert table.loc["width", "statistics"].str.startswith("2 of 3 conditions are missing").all()
    assert (tmp_path / "figures/width.png").exists()


def test_an_invalid_profile_or_override_is_an_error_before_any_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "gpu"]) == 2
    assert "choose one of cpu, headline, paper, reference" in capsys.readouterr().err
    assert main(["reproduce", "headline", "cpu"]) == 2
    assert "cpu: must be KEY=VALUE" in capsys.readouterr().err
    assert main(["reproduce", "headline", "architecture.dept=3"]) == 2
    assert "architecture.dept: " in capsys.readouterr().err


def frame(**columns: list) -> pd.DataFrame:
    usual = {"epoch": 600, "view": "layer", "convention": "paper", "learning_rate": 1e-3, "train_loss": 0.0}
    usual |= {"train_accuracy": 1.0, "points": 20}
    return pd.DataFrame(columns | {name: value for name, value in usual.items() if name not in columns})


def test_a_diverged_deepest_network_has_no_rise() -> None:
    rows = frame(depth=[4, 20] * 3, seed=[1, 1, 2, 2, 3, 3], D_last=[0.5, math.nan, 0.6, 1.2, 0.4, 1.2])
    rise = rise_beyond_best_depth(Tables(rows, rows, 0), rows).set_index("seed")["rise"]
    assert math.isnan(rise[1])
    assert rise[[2, 3]].tolist() == pytest.approx([1.0, 2.0])


def test_a_negative_claim_is_also_judged_at_the_published_rate() -> None:
    rows = frame(seed=[1, 1], learning_rate=[1e-3, 3e-5], run=["a", "b"])
    both = at_best_and_published_rate(Tables(rows, rows, 0), rows[:1])
    assert both[["run", "choice"]].to_numpy().tolist() == [["a", "best rate"], ["b", "published rate"]]


def test_a_comparison_needs_both_training_modes() -> None:
    reproduction = reproduction_of("frozen")
    rows = frame(training=["paper"], seed=[1], run=["a"], r=[-0.99], test_accuracy=[0.2])
    assert reproduction.statistics is not None
    assert reproduction.statistics(Tables(rows, rows, 0), rows).empty


def train(name: str, results: Path, *overrides: str) -> list[str]:
    """Train an experiment's runs in this process; return their overrides."""
    arguments = [*SMOKE, f"results={results}", *overrides]
    execute([point.config for point in expand_experiment(name, arguments)])
    return arguments


def test_if_all_networks_diverged_nothing_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = train("width", tmp_path, "architecture.width=20", "optimizer.learning_rate=1e30")
    assert reproduction_of("width").main(arguments) == 1
    assert "1 of 1 networks diverged." in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()


def test_a_damaged_run_is_named_and_other_experiments_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    narrow = ["seed=1", "optimizer.learning_rate=1e-3", "architecture.depth=3"]
    small = {"width": [[*narrow, "architecture.width=20"]], "imbalance": [narrow]}
    monkeypatch.setattr(whole, "load_profile", lambda name: small)
    for name, (sweep,) in small.items():
        train(name, tmp_path, *sweep)
    (damaged,) = [run for run in all_runs(tmp_path) if run.config()["architecture"]["width"] == 20]
    (damaged.path / "state.json").write_text("{")
    assert main(["reproduce", "tiny", *SMOKE, f"results={tmp_path}"]) == 1
    output = capfd.readouterr()
    assert "Traceback" not in output.err
    assert re.search(r"width: .*state.json is damaged", output.err)
    assert "imbalance: written" in output.out


def snapshots(training: str, seed: int, path: list[tuple[int, float, float]], rate: float = 1e-3) -> list[dict]:
    """Return the rows of a run at (epoch, training loss, test accuracy)."""
    return [
        {"run": f"{training} {seed}", "dataset": "cifar10_10x10", "training": training, "seed": seed, "epoch": epoch}
        | {
            "learning_rate": rate,
            "train_loss": loss,
            "test_accuracy": accuracy,
            "r": -0.9 if training == "frozen" else -0.99,
            "points": 20,
        }
        for epoch, loss, accuracy in path
    ]


def test_networks_are_compared_at_the_first_snapshot_with_as_low_a_loss() -> None:
    rows = pd.DataFrame(
        [
            *snapshots("paper", 1, [(0, 2.3, 0.1), (100, 0.3, 0.5), (200, 0.2, 0.6), (600, 0.001, 0.7)]),
            *snapshots("frozen", 1, [(0, 2.3, 0.1), (1500, 0.2, 0.4)]),
            *snapshots("paper", 2, [(0, 2.3, 0.1), (600, 0.3, 0.7)]),
            *snapshots("frozen", 2, [(0, 2.3, 0.1), (1500, 0.2, 0.4)]),
        ]
    )
    compared = compare(rows).query("rate == 'rate 1e-3'").set_index(["way", "seed"])
    assert compared.loc[("matched", 1), "accuracy_gain"] == pytest.approx(0.2)
    assert compared.loc[("final", 1), "accuracy_gain"] == pytest.approx(0.3)
    assert compared.loc[("final", 2), "loss_gap"] == pytest.approx(0.1)
    assert compared.loc[("final", 2), "r_gain"] == pytest.approx(0.09)
    # The joint network of the second seed does not reach the loss.
    assert ("matched", 2) not in compared.index
    (table,) = reproduction_of("out_of_sample").extra_tables(Tables(rows, rows, 0), rows).values()
    assert not table["judged"].any()
    assert table.set_index(["rate", "way"]).loc[("rate 1e-3", "matched"), "seeds"] == 1


def test_controls_are_distinguished_and_exclude_the_trained_network() -> None:
    grid = [
        {"run": f"{architecture}", "architecture": architecture, "permutation_seed": seed, "epoch": epoch, "r": -1.0}
        for architecture in ("fnn", "fnn_linear")
        for seed in ("null", 0)
        for epoch in (0, 600)
    ]
    rows = pd.DataFrame(grid)
    controls = reproduction_of("controls")
    assert controls.statistics is not None
    named = controls.statistics(Tables(rows, rows, 0), rows)
    assert sorted(named["choice"]) == ["layers permuted", "linear", "untrained"]


def test_networks_with_unequal_ratios_that_lose_more_agree_with_the_claim() -> None:
    """Networks of one depth with CV of log ρ, accuracy under noise and rise of D that increase or decrease together."""
    runs, layers, perturbed = [], [], []
    random = np.random.default_rng(0)
    for seed in range(3):
        for index in range(12):
            run = f"{seed} {index}"
            falls = 0.5 + 0.04 * index * random.permutation([-1, 1, -1, 1, -1, 1])
            curve = np.exp(-np.concatenate([[0.0], falls.cumsum()]))
            key = {"run": run, "view": "layer", "convention": "paper", "epoch": 600}
            facts = {"depth": 7, "learning_rate": 1e-3 * (1 + index), "seed": seed}
            runs.append(key | facts | {"train_loss": random.random(), "train_accuracy": 1.0})
            layers += [key | {"layer": at, "D": d} for at, d in enumerate(curve)]
            result = {
                "run": run,
                "convention": "paper",
                "strength": 0.1,
                "layer": math.nan,
                "draws": 2,
                "r": -1.0,
                "change": 0.0,
            }
            perturbed.append(result | {"kind": "clean", "strength": 0.0, "D_last": curve[-1], "test_accuracy": 0.8})
            worse = {"D_last": curve[-1] * (1 + index), "test_accuracy": 0.8 - 0.05 * index}
            perturbed.append(result | {"kind": "weights"} | worse)
            # A layer that separates more is more sensitive.
            perturbed += [
                result | {"kind": "one_layer", "layer": at + 1, "change": fall} for at, fall in enumerate(falls)
            ]
    tables = Tables(pd.DataFrame(runs), pd.DataFrame(layers), 0, perturbed=pd.DataFrame(perturbed))
    robustness = reproduction_of("robustness")
    assert robustness.statistics is not None
    statistics = robustness.statistics(tables, tables.runs)
    (row,) = statistics.to_dict("records")
    assert row["seeds"] == 3
    area, rise = row["correlation_with_log_ratio_cv"], row["fuzziness_with_log_ratio_cv"]
    # Twelve settings, in which seeds are no further cases.
    assert area.mean < area.high < -0.9
    assert rise.mean > rise.low > 0.9
    assert area.n == rise.n == 12
    assert row["layer_sensitivity_with_ratio"].mean < -0.8
    assert any("controlling for separation" in remark for remark in robustness.remarks(tables, tables.runs))
