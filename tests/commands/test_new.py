"""An experiment of one's own: written, run, drawn and judged like ours; mistakes in its files are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from equisep.analysis.figures.catalogue import reproduction_of
from equisep.commands.main import main
from equisep.config.vocabulary import OWN_CONF
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A working folder with a new experiment in own/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OWN_CONF, "")
    assert main(["new", "experiment", "batch_size"]) == 0
    return tmp_path


OWN = ["--config-dir", "own"]
SMALL = ["training=smoke", "architecture.width=8", "seed=1,2", "tracking=off"]


def test_it_runs_as_it_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = capsys.readouterr().out.splitlines()
    assert written[1].split() == ["equisep", "-m", *OWN, "experiment=batch_size"]
    narrow = ["architecture.width=8", "tracking=off"]
    assert main(["-m", *OWN, "experiment=batch_size", *narrow]) == 0
    assert main(["figure", "batch_size", *OWN, *narrow]) == 0
    record = json.loads((folder / "results/verdicts/batch_size.json").read_text())
    assert set(record["verdicts"]) == {"paper", "evaluation"}
    assert "not tested" not in {verdict["verdict"] for verdict in record["verdicts"].values()}
    assert {finding["n"] for finding in record["verdicts"]["paper"]["findings"]} == {5}
    assert len(pd.read_csv(folder / "results/tables/batch_size.csv")) == 2 * 2 * 5 * 2
    assert (folder / "results/figures/batch_size.md").read_text().startswith("Networks at two depths and batch sizes.")
    # The report has it beside ours.
    assert main(["report", *OWN]) == 0
    assert "batch_size" in (folder / "results/report.html").read_text()


def test_the_example_runs_at_smoke_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep over a network of one's own, with its figure and claim."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(OWN_CONF, "")
    own = ["--config-dir", "examples/layer_norm/conf"]
    small = ["training=smoke", "architecture.arguments.width=8", "seed=1,2", "tracking=off", f"results={tmp_path}"]
    assert main(["-m", *own, "experiment=activations", *small]) == 0
    assert main(["figure", "activations", *own, *small]) == 1
    table = pd.read_csv(tmp_path / "tables/activations.csv")
    assert set(table["activation"]) == {"ReLU", "GELU", "Tanh"}
    assert len(table) == 3 * 2 * 2
    record = json.loads((tmp_path / "verdicts/activations.json").read_text())
    assert record["verdicts"]["paper"]["statistics"] == "trained for 2 epochs, the experiment has 60"


def test_without_figure_and_claim_there_is_a_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own/figure/batch_size.yaml").unlink()
    (folder / "own/claims.yaml").unlink()
    assert main(["-m", *OWN, "experiment=batch_size", *SMALL, "training.batch_size=64,256"]) == 0
    assert main(["figure", "batch_size", f"--config-dir={folder / 'own'}", *SMALL]) == 0
    assert "no claim stated for this experiment" in capsys.readouterr().out
    assert main(["report", *OWN]) == 0
    assert "no claim stated" in (folder / "results/report.html").read_text()
    assert (folder / "results/figures/batch_size.png").exists()
    figure = reproduction_of("batch_size")
    assert figure is not None
    assert figure.conditions == ("depth", "batch_size")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "figure/batch_size.yaml",
            "across: architecture.width",
            "width: batch_size does not sweep over it; choose from",
        ),
        ("figure/batch_size.yaml", "conditions: [", "while parsing"),
        ("figure/batch_size.yaml", "conditions: architecture.depth", "must be a list of fields"),
        ("figure/batch_size.yaml", "across: [architecture.depth]", "must be one field"),
        ("figure/batch_size.yaml", "hello", "must map keys to values"),
        (
            "figure/batch_size.yaml",
            "across: architecture.depth",
            "conditions that share a panel: training.batch_size; name them in across and down",
        ),
        ("figure/batch_size.yaml", "colour: red", "colour: no such key; use conditions, across, down or shows"),
        ("claims.yaml", "batch_sise: {}", "claims.yaml: batch_sise: no such experiment; did you mean batch_size?"),
        ("claims.yaml", "batch_size: {claim: x, seeds: 3}", "claims.yaml: batch_size: needs one of all, any, none"),
        ("experiment/batch_size.yaml", "experiment: batch_size\nsead: 1", "sead"),
        ("experiment/batch_size.yaml", "a: b: c", "mapping values are not allowed here"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    folder: Path, file: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own" / file).write_text("# @package _global_\n" + text if file.startswith("exp") else text)
    capsys.readouterr()
    assert main(["figure", "batch_size", *OWN, *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_name_that_is_taken_or_none_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, message in (
        ("batch_size", "exists; remove it or choose another name"),
        ("optimizers", "there is an experiment of this name"),
        ("Batch-size", "use up to 100 letters a to z, digits and _"),
        ("law", "is a word of YAML or a figure of ours"),
        ("true", "is a word of YAML or a figure of ours"),
    ):
        assert main(["new", "experiment", name]) == 2
        assert message in capsys.readouterr().err
    # A claim that cannot be read is told before anything is trained.
    (folder / "own/claims.yaml").write_text("batch_size: {claim: x, seeds: 0, all: {r: {at_most: 1}}}")
    assert main(["-m", "experiment=batch_size", *OWN, *SMALL]) == 2
    assert "own/claims.yaml: batch_size: seeds: 0: must be an integer" in capsys.readouterr().err
    assert main(["new", "experiment", "other", f"--config-dir={ROOT / 'conf'}"]) == 2
    assert "is the package's own; set --config-dir to a folder of yours" in capsys.readouterr().err
    monkeypatch.setenv(OWN_CONF, "")
    assert main(["figure", "batch_size"]) == 2
    assert "figure batch_size: no such figure" in capsys.readouterr().err
    assert main(["figure", "batch_size", "--config-dir", "nowhere"]) == 2
    assert capsys.readouterr().err == "equisep: --config-dir nowhere: no such folder\n"
