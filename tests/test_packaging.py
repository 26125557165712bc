"""The wheel stands alone, and the Makefile tells what it can do."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_wheel_carries_conf_and_runs_from_another_folder(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("equisep-*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # The dependencies of this environment serve; of equisep only the wheel is seen.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def equisep(*words: str) -> subprocess.CompletedProcess[str]:
        command = environment / "bin/equisep"
        return subprocess.run([command, *words], cwd=elsewhere, capture_output=True, text=True)

    data = f"dataset.root={os.environ['EQUISEP_DATA']}"
    assert "equisep reproduce" in equisep("--help").stdout
    run = equisep("training=smoke", "tracking=off", data)
    assert run.returncode == 0, run.stderr
    assert equisep("show", "last").stdout.splitlines()[-1].endswith("law.png")
    figure = equisep("figure", "width", f"tables={ROOT}/results/reference/width", "results=figures")
    assert figure.returncode == 0, figure.stderr
    small = ["training=smoke", "tracking=off", "seed=1", "optimizer=sgd", "architecture.depth=4", data]
    reproduced = equisep("reproduce", "headline", *small)
    # Everything is trained and drawn; with two epochs and one seed no claim is judged.
    assert reproduced.returncode == 1, reproduced.stderr
    assert (elsewhere / "results/figures/optimizers.png").is_file()
    assert equisep("report").returncode == 0
    assert (elsewhere / "results/report.html").is_file()
    where = subprocess.run(
        [python, "-P", "-c", "from equisep.config.vocabulary import conf_folder; print(conf_folder())"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout.strip()
    assert where == f"{site}/equisep/conf"
    assert {path.name for path in elsewhere.iterdir()} == {"results", "figures"}


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run make as a user types it, also where the tests themselves run under make."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_make_help_lists_every_target() -> None:
    listed = make("help", folder=ROOT).stdout
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in phony.split()[1:]:
        assert f"make {target}" in listed
    assert make(folder=ROOT).stdout == listed


def test_a_python_without_venv_or_too_old_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    for refuses, words in (("sys.version_info", "Python 3.11 or newer"), ("ensurepip", "apt-get install python3-venv")):
        python = tmp_path / f"python-{refuses}"
        python.write_text(f'#!/bin/sh\ncase "$2" in *{refuses}*) exit 1;; esac\n')
        python.chmod(0o755)
        made = make("setup", f"PYTHON={python}", folder=tmp_path)
        assert made.returncode != 0
        assert words in made.stdout
        assert len(made.stdout.splitlines()) == 1
