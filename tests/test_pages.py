"""Every command of the README and of docs/, with shorter training and a folder of the test for the results."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision
from safetensors.torch import save_file
from torchvision.utils import save_image

from equisep.analysis.claims import load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS
from equisep.analysis.verdicts import STATUSES
from equisep.commands.main import main
from equisep.config import Config
from equisep.data import Data
from tests.conftest import ROOT, run_one
from tests.processes import call

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
EQUISEP = ".venv/bin/equisep "


def blocks(language: str) -> list[str]:
    """Return the code blocks in a language, of all pages; one that stands on two pages once."""
    found = [re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL) for page in PAGES]
    return list(dict.fromkeys(block for page in found for block in page))


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of Figure 1 with one seed and two epochs, for the commands that read a store."""
    results = tmp_path_factory.mktemp("results")
    sweep = ["-m", "experiment=optimizers", "training=smoke", "seed=1", "tracking=offline", f"results={results}"]
    assert call(*sweep).code == 0
    return results


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(EQUISEP)])
def test_commands_of_the_package(
    command: str, store: Path, tmp_path: Path, fashion: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)[1:]
    if "--config-dir" in words or words[0] == "new":
        _test_own_experiment(words, tmp_path, monkeypatch)
    elif words[:2] == ["figure", "law"]:
        table = "layer,D,run\n0,9,a\n1,3,a\n2,1,a\n"
        (tmp_path / "mine.csv").write_text(table)
        ended = call(*(word.replace("mine.csv", f"{tmp_path}/mine.csv") for word in words), f"results={tmp_path}")
        assert ended.code == 0, ended.err
    elif words[0] == "figure":
        _test_figure(words, store, tmp_path)
    elif words[0] == "measure":
        save_file(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "net.safetensors")
        for place, label in enumerate(fashion.train.labels[:50].tolist()):
            (tmp_path / f"images/{label}").mkdir(parents=True, exist_ok=True)
            save_image(fashion.train.inputs[place], tmp_path / f"images/{label}/{place}.png")
        words = [
            word.replace("net.safe", f"{tmp_path}/net.safe").replace("r:images", f"r:{tmp_path}/images")
            for word in words
        ]
        ended = call(*words, "--output", str(tmp_path / "measured"))
        assert ended.code == 0, ended.err
        assert (tmp_path / "measured/resnet18.png").exists()
    elif words[0] in ("show", "status", "mirror"):
        ended = call(*words, f"results={store}")
        assert ended.code == 0, ended.err
        assert ended.out
    elif words[0] == "dashboard":
        assert call(*words).code == 0
    else:
        # SLURM has its own tests; here the same code runs without it.
        words = [word.replace("hydra/launcher=slurm", "hydra/launcher=debug") for word in words]
        short = ["training=frozen_smoke"] if "training=frozen" in words else ["training=smoke"]
        words = [word for word in words if not word.startswith("training=")]
        # Fewer seeds than an experiment has.
        seed = ["seed=1"] if any(word.startswith("experiment=") for word in words) else []
        ended = call(*words, *short, *seed, "tracking=off", f"results={tmp_path}")
        assert ended.code == 0, ended.err


def _test_own_experiment(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command with a folder of one's own, and those that have to run before it, in this process."""
    # Set by the option, for all that follows in the process.
    monkeypatch.setenv("EQUISEP_CONFIG_DIR", "")
    new = "own" in words or words[0] == "new"
    monkeypatch.chdir(tmp_path if new else ROOT)
    if new:
        assert main(["new", "experiment", "batch_size"]) == 0
    name, folder = ("batch_size", "own") if new else ("activations", "examples/layer_norm/conf")
    short = ["training=smoke", "seed=1", "tracking=off", f"results={tmp_path}"]
    if words[0] != "new":
        own = ["--config-dir", folder]
        assert main(["-m", *own, f"experiment={name}", *short]) == 0
        assert main(["figure", name, *own, *short]) == 1
        record = json.loads((tmp_path / f"verdicts/{name}.json").read_text())
        assert "trained for 2 epochs" in record["verdicts"]["paper"]["statistics"]


def _test_figure(words: list[str], store: Path, tmp_path: Path) -> None:
    name = words[1]
    if words[-1].startswith("tables="):
        ended = call(*words, f"results={tmp_path}")
        assert ended.code == 0, ended.err
    else:
        overview = name in OVERVIEWS
        words = [word.replace("=results/", f"={store}/") for word in words]
        # The overviews take the runs of the results folder that they write to.
        shutil.copytree(store / "runs", tmp_path / "runs")
        ended = call(*words, *([] if overview else ["training=smoke", "seed=1"]), f"results={tmp_path}")
        assert ended.code == 1, ended.err
        reason = "no networks on" if overview else "trained for 2 epochs"
        assert f"not tested: {reason}" in ended.out
    assert (tmp_path / f"figures/{name}.png").exists()


def test_python_blocks(configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_one(configure("architecture.depth=4", f"results={tmp_path}/results"))
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) >= 2
    for block in found:
        exec(compile(block, "page", "exec"), {})


def test_make_commands_are_targets() -> None:
    for command in commands():
        if command.startswith("make "):
            assert re.search(rf"^{shlex.split(command)[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), (
                command
            )


def test_other_commands_are_of_wandb() -> None:
    others = [line for line in commands() if not line.startswith((EQUISEP, "make "))]
    for command in others:
        words = shlex.split(command)
        assert words[0] == ".venv/bin/wandb"
        run = subprocess.run(
            [Path(sys.executable).with_name("wandb"), words[1], "--help"], capture_output=True, text=True
        )
        assert run.returncode == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT)})" in readme


def test_the_verdicts_in_the_readme_are_those_of_the_reference_results() -> None:
    readme = (ROOT / "README.md").read_text()
    words = "|".join((*STATUSES, "not supported", "supported"))
    verdicts = re.findall(rf"(as published|in evaluation mode)? ?\[({words})\]\(results/reference/(\w+)\)", readme)
    assert len(verdicts) >= 12
    for where, verdict, name in verdicts:
        record = json.loads((ROOT / f"results/reference/{name}/{name}.json").read_text())
        if "verdicts" not in record:
            # Of the former rules.
            assert record["verdict"] == verdict, name
            continue
        names = {"as published": ["paper"], "in evaluation mode": ["evaluation"]}.get(where, list(record["verdicts"]))
        assert {record["verdicts"][convention]["verdict"] for convention in names} == {verdict}, name


def test_the_table_of_verdicts_agrees_with_the_reference_results() -> None:
    page = (ROOT / "docs/results.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert len(rows) == len(load_claims())
    for name, result in rows.items():
        record = ROOT / f"results/reference/{name}/{name}.json"
        verdict = json.loads(record.read_text())["verdict"] if record.exists() else "not tested"
        assert result.removeprefix("[").startswith(verdict), name
