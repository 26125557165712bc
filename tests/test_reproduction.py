"""Every experiment from one command: its file, its script, its row in the README, its figure, table and verdict."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from equisep.data import DataUnavailable
from equisep.reproduction import Reproduction, load_profile
from equisep.schema import ConfigError, conf_folder
from reproduce import __main__ as whole
from tests.conftest import ROOT
from tests.test_data import DEVELOPMENT_DATA

EXPERIMENTS = sorted(file.stem for file in (conf_folder() / "experiment").glob("*.yaml"))
CIFAR = {"depth_cifar10", "frozen", "original_size", "vgg13", "alexnet", "densenet"}
# One small sweep of each experiment: two epochs, one seed, one rate, small subsets of the classes.
SMOKE = ["training=smoke", "tracking=off", "seed=1"]
LESS = {
    "optimizers": ["architecture.depth=4"],
    "emergence": ["architecture.depth=8"],
    "learning_rate": ["optimizer.learning_rate=.01,.1"],
    "frozen": ["training=smoke,frozen_smoke", "optimizer.learning_rate=1e-3"],
    "original_size": ["architecture.depth=4", "architecture.width=100", "optimizer.learning_rate=1e-3"],
    "width": ["architecture.width=20,100", "optimizer.learning_rate=1e-3"],
    "vgg13": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "alexnet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.125"],
    "densenet": ["optimizer.learning_rate=1e-3", "architecture.width_multiplier=0.25"],
}
EPOCHS = {"emergence": (0, 2)}


def reproduction_of(name: str) -> Reproduction:
    reproduction: Reproduction = importlib.import_module(f"reproduce.{name}").REPRODUCTION
    return reproduction


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
def test_every_experiment_runs_and_gives_figure_table_and_verdict(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in CIFAR | {"depth_mnist"} and not DEVELOPMENT_DATA:
        pytest.skip("EQUISEP_TEST_DATA names no MNIST and CIFAR-10")
    overrides = overrides_of(name, tmp_path)
    sweep = [sys.executable, "-m", "equisep", "-m", f"experiment={name}", *overrides]
    subprocess.run(sweep, check=True, cwd=ROOT)
    reproduction = reproduction_of(name)
    monkeypatch.setattr(type(reproduction), "collect", collect_at(EPOCHS.get(name)))
    tables = reproduction.collect([overrides])
    assert tables.missing == 0
    verdict = reproduction.write(tables, tmp_path)
    record = json.loads((tmp_path / f"verdicts/{name}.json").read_text())
    assert record["verdict"] == verdict.word
    assert verdict.findings
    with Image.open(tmp_path / f"figures/{name}.png") as image:
        assert min(image.size) > 300
    assert (tmp_path / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(pd.read_csv(tmp_path / f"tables/{name}.csv")) == len(tables.runs)
    if name in CIFAR:
        assert any("Test accuracy on 1,000 images" in note for note in record["notes"])
    if name in ("vgg13", "alexnet"):
        assert "Networks scaled down: 0.125 of the channels and units." in record["notes"]


def collect_at(epochs: tuple[int, ...] | None):  # type: ignore[no-untyped-def]
    """Two epochs have other snapshots than the paper's nine."""
    original = Reproduction.collect

    def collect(self: Reproduction, sweeps: list[list[str]]):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        return original(replace(self, epochs=epochs) if epochs else self, sweeps)

    return collect


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / f"reproduce/{name}.py"), *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_a_script_says_what_is_missing_and_how_to_train_it(tmp_path: Path) -> None:
    said = script("width", f"results={tmp_path}", "seed=1")
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
    ],
)
def test_a_script_refuses_wrong_arguments_in_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    said = script("width", f"results={tmp_path}", *arguments)
    assert said.returncode == 2
    assert words in said.stderr
    assert len(said.stderr.splitlines()) == 1


REFERENCE = sorted(folder.parent.name for folder in (ROOT / "results/reference").glob("*/*_layers.csv"))


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
            finding.update({key: pytest.approx(finding[key], rel=1e-6, nan_ok=True) for key in ("mean", "low", "high")})
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
    assert re.search(r"depth_mnist +45 +0 not run: no data", told.out)
    assert "1 networks to train, about 0.0 h here" in told.out
    assert "depth_mnist: not run: mnist is not to be had" in told.err
    table = pd.read_csv(tmp_path / "tables/verdicts.csv", index_col="experiment")
    assert table.loc["depth_mnist", "verdict"] == "not run"
    assert table.loc["width", "verdict"] in ("supported", "not supported")
    assert (tmp_path / "figures/width.png").exists()


def test_a_wrong_profile_or_override_is_refused_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert whole.main(["gpu"]) == 2
    assert "choose one of cpu, headline, paper" in capsys.readouterr().err
    assert whole.main(["headline", "architecture.dept=3"]) == 2
    assert "'dept'" in capsys.readouterr().err
