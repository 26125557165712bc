"""Every command of the README, with shorter training and a folder of the test for the results."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from equisep.analysis.claims import load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS
from equisep.config import Config
from tests.conftest import ROOT, run_one

README = (ROOT / "README.md").read_text()
SHORT = ["training=smoke", "tracking=off"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(".venv/bin/python")])
def test_python_commands(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[1:]
    results = f"results={tmp_path}"
    # SLURM has its own tests; here the same code runs without it.
    words = [word.replace("hydra/launcher=slurm", "hydra/launcher=debug") for word in words]
    if "--json" in words:
        assert _run(words).returncode == 0
        return
    if words[0].startswith("reproduce/"):
        _test_script(words, results)
        return
    maintenance = len(words) > 2 and words[2] in ("status", "mirror")
    overrides = [] if maintenance else SHORT
    if "training=frozen" in words:
        words[words.index("training=frozen")], overrides = "training=frozen_smoke", ["tracking=off"]
    run = _run([*words, *overrides, results])
    assert run.returncode == 0, run.stderr


def _test_script(words: list[str], results: str) -> None:
    name = Path(words[0]).stem
    if words[-1].startswith("tables="):
        run = _run([*words, results])
        assert run.returncode == 0, run.stderr
    else:
        overview = name in OVERVIEWS
        logged = words[-1] == "source=results/wandb"
        sweep = ["training=smoke", f"tracking={'offline' if logged else 'off'}", results]
        assert _run(["-m", "equisep", "-m", f"experiment={'emergence' if overview else name}", *sweep]).returncode == 0
        words = [word.replace("=results/", f"={results.removeprefix('results=')}/") for word in words]
        run = _run([*words, *([] if overview else SHORT), results])
        assert run.returncode == 1, run.stderr
        reason = "no runs to judge" if overview else "trained for 2 epochs"
        assert f"not run: {reason}" in run.stdout
    assert Path(results.removeprefix("results="), "figures", f"{name}.png").exists()


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


def test_python_blocks(configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_one(configure("architecture.depth=4", f"results={tmp_path}/results"))
    monkeypatch.chdir(tmp_path)
    own, logs = blocks("python")
    for block in (own, logs):
        exec(compile(block, "README.md", "exec"), {})


def test_make_commands_are_targets() -> None:
    for command in commands():
        if command.startswith("make "):
            assert re.search(rf"^{shlex.split(command)[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), (
                command
            )


def test_other_commands_are_of_wandb() -> None:
    others = [line for line in commands() if not line.startswith((".venv/bin/python", "make "))]
    for command in others:
        words = shlex.split(command)
        assert words[0] == ".venv/bin/wandb"
        run = subprocess.run(
            [Path(sys.executable).with_name("wandb"), words[1], "--help"], capture_output=True, text=True
        )
        assert run.returncode == 0, command


def test_links_have_targets() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_verdicts_agrees_with_the_reference_results() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", README, flags=re.MULTILINE))
    assert len(rows) == len(load_claims())
    for name, result in rows.items():
        record = ROOT / f"results/reference/{name}/{name}.json"
        verdict = json.loads(record.read_text())["verdict"] if record.exists() else "not run"
        assert result.removeprefix("[").startswith(verdict), name
