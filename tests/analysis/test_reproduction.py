"""Every experiment from one command: its file, its script, its row in the README, its figure, table and verdict."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from equisep.analysis.experiments import expand_experiment
from equisep.analysis.figures.catalogue import REPRODUCTIONS, at_best_and_published_rate, rise_beyond_best_depth
from equisep.analysis.figures.out_of_sample import compare
from equisep.analysis.reproduction import Reproduction, load_profile
from equisep.analysis.tables import Tables, load_tables
from equisep.config import ConfigError, Tracking, conf_folder
from equisep.data import DataUnavailable
from equisep.execution import mirror_store
from equisep.execution.train import execute
from equisep.store import all_runs
from reproduce import __main__ as whole
from tests.conftest import ROOT
from tests.data.test_dataset import DEVELOPMENT_DATA

EXPERIMENTS = sorted(file.stem for file in (conf_folder() / "experiment").glob("*.yaml"))
CIFAR = {"depth_cifar10", "frozen", "original_size", "vgg13", "alexnet", "densenet"}
# One small sweep of each experiment: two epochs, one seed, one rate, small subsets of the classes.
SMOKE = ["training=smoke", "tracking=off", "seed=1"]
LESS = {
    "optimizers": ["architecture.depth=4"],
    "emergence": ["architecture.depth=8"],
    "learning_rate": ["optimizer.learning_rate=.01,.1"],
    "frozen": ["training=smoke,frozen_smoke", "optimizer.learning_rate=1e-3"],
    "out_of_sample": ["training=smoke,frozen_smoke", "optimizer.learning_rate=1e-3", "dataset=fashion_mnist_10x10"],
    "controls": ["architecture.depth=4"],
    "robustness": [
        *("architecture.depth=4", "optimizer.learning_rate=1e-3"),
        *("robustness.draws=2", "robustness.test_images=100"),
    ],
    "original_size": ["architecture.depth=4", "architecture.width=100", "optimizer.learning_rate=1e-3"],
    "width": ["architecture.width=20,100", "optimizer.learning_rate=1e-3"],
    "vgg13": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "alexnet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "densenet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.25"],
}


def reproduction_of(name: str) -> Reproduction:
    return REPRODUCTIONS[name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_its_script_its_row_and_its_place_in_the_profiles(name: str) -> None:
    assert reproduction_of(name).name == name
    script = (ROOT / f"reproduce/{name}.py").read_text()
    assert f"python -m equisep -m experiment={name} && python reproduce/{name}.py" in script
    assert re.search(rf"^\| `{name}` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    for profile in ("cpu", "paper"):
        assert name in load_profile(profile)


def test_profiles_name_experiments_and_the_headline_needs_fashion_mnist_alone() -> None:
    for profile in ("headline", "cpu", "paper"):
        assert set(load_profile(profile)) <= set(EXPERIMENTS)
    assert list(load_profile("headline")) == ["optimizers", "emergence", "depth_fashion_mnist"]
    with pytest.raises(ConfigError, match="profile=gpu: no such profile, choose one of cpu, headline, paper"):
        load_profile("gpu")


def overrides_of(name: str, results: Path) -> list[str]:
    data = []
    if name in CIFAR:
        # The colour sets of the development data; the grey ones are left out where an experiment has both.
        data = ["dataset.source=folder", f"dataset.root={DEVELOPMENT_DATA}"]
        size = "10x10" if name in ("depth_cifar10", "frozen") else "32x32"
        data.append(f"dataset=cifar10_{size}")
    if name == "depth_mnist":
        # Through a folder of the test's own: what is prepared of a data set is kept beside it.
        (results / "data").mkdir()
        (results / "data/MNIST").symlink_to(f"{DEVELOPMENT_DATA}/MNIST")
        data = [f"dataset.root={results}/data"]
    rate = [] if name in ("optimizers", "emergence", *LESS) else ["optimizer.learning_rate=1e-3"]
    return [*SMOKE, f"results={results}", *rate, *LESS.get(name, []), *data]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_gives_figure_table_and_verdict(name: str, tmp_path: Path) -> None:
    if name in CIFAR | {"depth_mnist"} and not DEVELOPMENT_DATA:
        pytest.skip("EQUISEP_TEST_DATA names no MNIST and CIFAR-10")
    overrides = overrides_of(name, tmp_path)
    sweep = [sys.executable, "-m", "equisep", "-m", f"experiment={name}", *overrides]
    subprocess.run(sweep, check=True, cwd=ROOT)
    reproduction = reproduction_of(name)
    tables = reproduction.collect([overrides])
    assert tables.missing == 0
    verdict = reproduction.write(tables, tmp_path)
    record = json.loads((tmp_path / f"verdicts/{name}.json").read_text())
    # A part of the conditions, or two epochs, is not the claim; its statistics are there all the same.
    assert record["verdict"] == verdict.status == "not run"
    assert re.search("conditions are missing|trained for 2 epochs, the experiment has", verdict.missing)
    # One seed is too few for two networks to be compared at equal loss.
    if verdict.claim.rule != "none" and name != "out_of_sample":
        wanted = {criterion.statistic for criterion in verdict.claim.criteria}
        assert {finding["statistic"] for finding in record["findings"]} >= wanted
    with Image.open(tmp_path / f"figures/{name}.png") as image:
        assert min(image.size) > 300
    assert (tmp_path / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(pd.read_csv(tmp_path / f"tables/{name}.csv")) == len(tables.runs)
    if name in CIFAR:
        assert any("Test accuracy on 1,000 images" in note for note in record["notes"])
    if name in ("vgg13", "alexnet"):
        assert "Networks scaled down: 0.125 of the channels and units." in record["notes"]
    # The same tables from the wandb logs alone.
    mirror_store(tmp_path, Tracking(mode="offline", project="equisep"))
    logged = reproduction.collect([overrides], str(tmp_path / "wandb"))
    pd.testing.assert_frame_equal(logged.runs, tables.runs, check_exact=True)
    pd.testing.assert_frame_equal(logged.layers, tables.layers, check_exact=True)
    pd.testing.assert_frame_equal(logged.perturbed, tables.perturbed, check_exact=True)
    assert bool(len(tables.perturbed)) == (name == "robustness")
    # One seed may leave a statistic without a value, and NaN is not equal to itself.
    assert repr(reproduction.judge(logged)) == repr(verdict)


def test_a_figure_of_earlier_runs_does_not_stay_beside_a_verdict_of_later_ones(tmp_path: Path) -> None:
    reproduction = reproduction_of("width")
    reference = load_tables(ROOT / "results/reference/width", "width")
    reproduction.write(reference, tmp_path)
    assert (tmp_path / "figures/width.png").exists()
    nothing = reproduction.collect([[f"results={tmp_path}", "seed=1"]])
    assert reproduction.write(nothing, tmp_path).status == "not run"
    assert [path.name for path in tmp_path.rglob("*.*")] == ["width.json"]
    assert json.loads((tmp_path / "verdicts/width.json").read_text())["statistics"] == "15 runs are missing"


def test_a_script_says_what_is_missing_and_how_to_train_it(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "reproduce/width.py"), f"results={tmp_path}", "seed=1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1
    assert "15 runs are missing; these commands train them:" in said.stderr
    assert f"python -m equisep -m experiment=width results={tmp_path} seed=1" in said.stderr
    assert "verdict: not run: 15 runs are missing" in said.stdout
    assert json.loads((tmp_path / "verdicts/width.json").read_text())["verdict"] == "not run"
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["architecture.dept=3"], "'dept'"),
        (["profile=gpu"], "choose one of cpu, headline, paper"),
        (["profile=headline"], "profile=headline: it leaves this experiment out"),
        (["tables=nowhere"], "no file nowhere/width.csv"),
        (["tables=nowhere", "seed=1"], "tables are drawn as they are"),
        (["--help"], "--help: give KEY=VALUE overrides"),
        (["architecture.depth=4,8"], "depth=4,8: no condition of this figure, give one"),
    ],
)
def test_a_script_refuses_wrong_arguments_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert reproduction_of("width").main([f"results={tmp_path}", *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1


REFERENCE = sorted(folder.parent.name for folder in (ROOT / "results/reference").glob("*/*_layers.csv"))


def test_there_are_reference_results() -> None:
    assert {"optimizers", "emergence", "depth_fashion_mnist"} <= set(REFERENCE)


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_results_can_be_drawn_again_with_the_same_verdict(name: str, tmp_path: Path) -> None:
    folder = ROOT / "results/reference" / name
    reproduction = reproduction_of(name)
    code = reproduction.main([f"tables={folder}", f"results={tmp_path}"])
    assert code == 0
    again, before = (json.loads((path / f"{name}.json").read_text()) for path in (tmp_path / "verdicts", folder))
    for record in (again, before):
        # The tables hold nine digits.
        for finding in record["findings"]:
            for key in ("mean", "low", "high"):
                if finding[key] is not None:
                    finding[key] = pytest.approx(finding[key], rel=1e-6)
    assert again["findings"] == before["findings"]
    assert (again["verdict"], again["notes"]) == (before["verdict"], before["notes"])


def test_a_data_set_that_cannot_be_had_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {
        "depth_mnist": [["seed=1"]],
        "width": [["seed=1", "optimizer.learning_rate=1e-3", "architecture.width=20"]],
    }
    prepare = whole.prepare

    def no_mnist(config):  # type: ignore[no-untyped-def]
        if config.dataset.name == "mnist":
            raise DataUnavailable("mnist is not to be had")
        return prepare(config)

    monkeypatch.setattr(whole, "load_profile", lambda name: small)
    monkeypatch.setattr(whole, "prepare", no_mnist)
    code = whole.main(["tiny", *SMOKE, f"results={tmp_path}"])
    told = capfd.readouterr()
    assert code == 1
    assert re.search(r"depth_mnist +45 +0 +not run", told.out)
    assert "1 networks to train, about 0.0 h here" in told.out
    assert "depth_mnist: mnist is not to be had" in told.err
    table = pd.read_csv(tmp_path / "tables/verdicts.csv", index_col="experiment")
    assert table.loc["depth_mnist", "verdict"] == "not run"
    assert table.loc["width", "statistics"].startswith("2 of 3 conditions are missing")
    assert (tmp_path / "figures/width.png").exists()


def test_a_wrong_profile_or_override_is_refused_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert whole.main(["gpu"]) == 2
    assert "choose one of cpu, headline, paper" in capsys.readouterr().err
    assert whole.main(["headline", "cpu"]) == 2
    assert "give one profile" in capsys.readouterr().err
    assert whole.main(["headline", "architecture.dept=3"]) == 2
    assert "'dept'" in capsys.readouterr().err


def frame(**columns: list) -> pd.DataFrame:
    usual = {"epoch": 600, "view": "layer", "learning_rate": 1e-3, "train_loss": 0.0, "train_accuracy": 1.0}
    return pd.DataFrame(columns | {name: value for name, value in usual.items() if name not in columns})


def test_the_deepest_network_is_not_replaced_where_it_diverged() -> None:
    rows = frame(depth=[4, 4, 20, 20], seed=[1, 2, 1, 2], D_last=[0.5, 0.6, math.nan, 1.2])
    rise = rise_beyond_best_depth(Tables(rows, rows, 0), rows).set_index("seed")["rise"]
    assert math.isnan(rise[1])
    assert rise[2] == pytest.approx(1.0)


def test_a_negative_claim_is_judged_at_the_published_rate_too() -> None:
    rows = frame(seed=[1, 1], learning_rate=[1e-3, 3e-5], run=["a", "b"])
    both = at_best_and_published_rate(Tables(rows, rows, 0), rows[:1])
    assert both[["run", "choice"]].to_numpy().tolist() == [["a", "best rate"], ["b", "published rate"]]


def test_half_a_comparison_is_none() -> None:
    reproduction = reproduction_of("frozen")
    rows = frame(training=["paper"], seed=[1], run=["a"], r=[-0.99], test_accuracy=[0.2])
    assert reproduction.statistics is not None
    assert reproduction.statistics(Tables(rows, rows, 0), rows).empty


def train(name: str, results: Path, *overrides: str) -> list[str]:
    """Train an experiment's runs in this process; return the overrides that ask for them."""
    asked = [*SMOKE, f"results={results}", *overrides]
    execute([point.config for point in expand_experiment(name, asked)])
    return asked


def test_that_all_networks_diverged_is_said_and_nothing_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = train("width", tmp_path, "architecture.width=20", "optimizer.learning_rate=1e30")
    assert reproduction_of("width").main(asked) == 1
    assert "1 of 1 networks diverged." in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()


def test_a_damaged_run_is_named_in_one_line_and_a_profile_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    narrow = ["seed=1", "optimizer.learning_rate=1e-3", "architecture.depth=3"]
    small = {"width": [[*narrow, "architecture.width=20"]], "imbalance": [narrow]}
    monkeypatch.setattr(whole, "load_profile", lambda name: small)
    for name, (sweep,) in small.items():
        train(name, tmp_path, *sweep)
    (damaged,) = [run for run in all_runs(tmp_path) if run.config()["architecture"]["width"] == 20]
    (damaged.path / "state.json").write_text("{")
    assert whole.main(["tiny", *SMOKE, f"results={tmp_path}"]) == 1
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert re.search(r"width: .*state.json is damaged", told.err)
    assert "imbalance: written" in told.out


def snapshots(training: str, seed: int, path: list[tuple[int, float, float]], rate: float = 1e-3) -> list[dict]:
    """Return the rows of a run at (epoch, training loss, test accuracy)."""
    return [
        {"run": f"{training} {seed}", "dataset": "cifar10_10x10", "training": training, "seed": seed, "epoch": epoch}
        | {
            "learning_rate": rate,
            "train_loss": loss,
            "test_accuracy": accuracy,
            "r": -0.9 if training == "frozen" else -0.99,
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
    # The second never gets as low.
    assert ("matched", 2) not in compared.index
    (table,) = reproduction_of("out_of_sample").more(Tables(rows, rows, 0), rows).values()
    assert not table["judged"].any()
    assert table.set_index(["rate", "way"]).loc[("rate 1e-3", "matched"), "seeds"] == 1


def test_controls_are_told_apart_and_the_trained_network_is_none() -> None:
    grid = [
        {
            "run": f"{architecture} {dataset}",
            "architecture": architecture,
            "dataset": dataset,
            "epoch": epoch,
            "r": -1.0,
        }
        for architecture in ("fnn", "fnn_no_batch_norm", "fnn_linear")
        for dataset in ("fashion_mnist_10x10", "fashion_mnist_10x10_random_labels")
        for epoch in (0, 600)
    ]
    rows = pd.DataFrame(grid)
    controls = reproduction_of("controls")
    assert controls.statistics is not None
    named = controls.statistics(Tables(rows, rows, 0), rows)
    assert sorted(named["choice"]) == sorted(
        [
            *("untrained", "random labels", "no batch norm", "linear"),
            *("no batch norm, random labels", "linear, random labels"),
        ]
    )


def test_an_unequal_network_that_loses_more_is_what_the_claim_is_about() -> None:
    """Networks of one depth whose inequality, accuracy under noise and rise of D are made to go together."""
    runs, layers, perturbed = [], [], []
    random = np.random.default_rng(0)
    for seed in range(3):
        for index in range(12):
            run = f"{seed} {index}"
            falls = 0.5 + 0.04 * index * random.permutation([-1, 1, -1, 1, -1, 1])
            curve = np.exp(-np.concatenate([[0.0], falls.cumsum()]))
            facts = {"depth": 7, "learning_rate": 1e-3, "seed": seed, "view": "layer", "epoch": 600}
            runs.append({"run": run} | facts | {"train_loss": random.random(), "train_accuracy": 1.0})
            layers += [{"run": run, "view": "layer", "epoch": 600, "layer": at, "D": d} for at, d in enumerate(curve)]
            cell = {"run": run, "strength": 0.1, "layer": math.nan, "draws": 2, "r": -1.0, "change": 0.0}
            perturbed.append(cell | {"kind": "clean", "strength": 0.0, "D_last": curve[-1], "test_accuracy": 0.8})
            worse = {"D_last": curve[-1] * (1 + index), "test_accuracy": 0.8 - 0.05 * index}
            perturbed.append(cell | {"kind": "weights"} | worse)
            # A layer that separates more is the more sensitive one.
            perturbed += [
                cell | {"kind": "one_layer", "layer": at + 1, "change": fall} for at, fall in enumerate(falls)
            ]
    tables = Tables(pd.DataFrame(runs), pd.DataFrame(layers), 0, perturbed=pd.DataFrame(perturbed))
    robustness = reproduction_of("robustness")
    assert robustness.statistics is not None
    found = robustness.statistics(tables, tables.runs)
    assert found["seed"].tolist() == [0, 1, 2]
    assert (found["correlation_with_log_ratio_cv"] < -0.95).all()
    assert (found["fuzziness_with_log_ratio_cv"] > 0.95).all()
    assert (found["layer_sensitivity_with_ratio"] < -0.8).all()
    assert any("at equal separation" in remark for remark in robustness.remarks(tables, tables.runs))
