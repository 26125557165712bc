"""The lock, the extras, the distributions and the Makefile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import equisep as equisep_package
from equisep.analysis.dashboards import build_workspace
from equisep.config import ConfigError, validation
from equisep.execution import prepare
from equisep.store import lock_in_use, machine
from equisep.training import Kernels, why_not_native
from tests.conftest import ROOT, Config, Ended

LOCK = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def locked(name: str, environment: dict[str, str]) -> dict[str, Requirement]:
    """Return what a set of the lock installs in an environment, by normalised name."""
    lines = [line for line in (LOCK / f"{name}.txt").read_text().splitlines() if not line.startswith(" ")]
    requirements = [Requirement(line.removesuffix("\\").strip()) for line in lines]
    return {
        re.sub(r"[-_.]+", "-", requirement.name).lower(): requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


@pytest.mark.parametrize(("python", "platform"), list(product(PYTHONS, PLATFORMS)), ids=str)
def test_the_lock_has_every_dependency_in_its_range(python: str, platform: tuple[str, str]) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    environment |= {"sys_platform": platform[0], "platform_machine": platform[1], "os_name": "posix"}
    runtime = locked("runtime", environment)
    sets = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for extra, dependencies in sets.items():
        own = locked("development" if extra == "dev" else extra, environment) if extra else {}
        for dependency in map(Requirement, dependencies):
            if dependency.name != "equisep":
                pinned = (runtime | own)[dependency.name.lower()]
                (version,) = pinned.specifier
                assert version.operator == "=="
                assert dependency.specifier.contains(version.version, prereleases=True), dependency


def test_the_lock_has_hashes_and_names_no_index() -> None:
    for path in LOCK.glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"://|^ *#|^ *--(?!hash=)", text, re.MULTILINE), path.name
        for requirement in re.findall(r"^\S.*(?:\n    .*)*", text, re.MULTILINE):
            assert re.fullmatch(r"\S+==\S+( ; .*)? (\\\n    --hash=sha256:[0-9a-f]{64} ?)+", requirement), requirement


def test_the_lock_in_use_is_recorded_with_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    lock_in_use.cache_clear()
    digest = lock_in_use()[:12]
    assert re.fullmatch("[0-9a-f]{12}", digest)
    lock_in_use.cache_clear()
    found = machine._installed_versions()
    others = {"torch": "2.0.0+cpu", "rich": None}
    monkeypatch.setattr(machine, "_installed_versions", lambda: found | others)
    assert re.fullmatch(rf"{digest}, but torch 2\.0\.0\+cpu and \d+ more", lock_in_use())
    lock_in_use.cache_clear()


def test_a_missing_extra_is_named_in_one_line_before_any_work(
    configure: Callable[..., Config], equisep: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"foolbox", "submitit", "wandb_workspaces"}
    find = validation.find_spec
    monkeypatch.setattr(validation, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(ConfigError, match=r"^robustness\.fgsm, .*: foolbox is missing; .*EXTRAS=robustness$"):
        prepare(configure("robustness=standard"))
    prepare(configure("robustness=standard", "robustness.fgsm=[]", "robustness.pgd=[]"))
    with pytest.raises(ConfigError, match=r"^dashboard: wandb_workspaces is missing; .*'equisep\[dashboard\]', "):
        build_workspace("team", "law")
    submitted = equisep("-m", "training=smoke", "tracking=off", "seed=1", "hydra/launcher=slurm")
    assert (submitted.code, len(submitted.err.splitlines())) == (2, 1)
    assert "hydra/launcher=slurm: submitit is missing; run pip install 'equisep[slurm]'" in submitted.err
    assert not list(tmp_path.glob("**/runs/*"))


def test_the_version_stands_in_one_place_and_the_citation_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == equisep_package.__version__
    assert f"## {equisep_package.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text()
    assert PROJECT["dynamic"] == ["version"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributions")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_distributions_are_well_formed(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"] or [path.suffix for path in files] == [".gz", ".whl"]
    check = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


@pytest.mark.slow
def test_the_tests_of_the_source_distribution_run(distributions: Path, tmp_path: Path) -> None:
    """All of them are collected, a part is run; ``make test`` in the unpacked distribution runs all."""
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    environment = os.environ | {"PYTHONPATH": str(source / "src")}
    part = ["-m", "not slow", "-k", "test_compose or test_law or test_layout"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *part]
    run = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert re.search(r"\d+ passed, \d+ deselected", run.stdout)
    where = "import equisep; print(equisep.__file__)"
    used = subprocess.run([sys.executable, "-c", where], cwd=source, env=environment, capture_output=True, text=True)
    assert used.stdout.startswith(str(source))


@pytest.mark.slow
def test_the_wheel_carries_conf_and_runs_from_another_folder(distributions: Path, tmp_path: Path) -> None:
    (wheel,) = distributions.glob("equisep-*.whl")
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
    state = json.loads(next(elsewhere.glob("results/runs/*/state.json")).read_text())
    # A new environment has a setuptools of its own.
    assert state["machine"]["lock"].startswith(lock_in_use()[:12])
    # The source of the native kernels is in the wheel.
    assert state["machine"]["engine"] == ("batched" if why_not_native(Kernels.FEED_FORWARD) else "native")
    # Not that of the repository around the folder.
    assert state["machine"]["commit"] == f"equisep {equisep_package.__version__}"
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


def test_a_lock_that_does_not_fit_and_a_folder_that_cannot_be_written_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "requirements").symlink_to(LOCK)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (tmp_path / ".venv/.python").touch()
    # An interpreter that the lock was not resolved for.
    python.write_text('#!/bin/sh\ncase "$2" in *platform.machine*) exit 1;; esac\n')
    python.chmod(0o755)
    made = make("setup", folder=tmp_path)
    assert made.returncode != 0
    (line,) = made.stdout.splitlines()
    assert "the lock is for Python 3.11 to 3.14" in line
    assert "make setup LOCK=" in line
    made = make("setup", "LOCK=nowhere", folder=tmp_path)
    assert made.stdout.startswith("LOCK=nowhere: no file nowhere/runtime.txt; ")
    assert not (tmp_path / ".venv/.lock").exists()
    made = make("setup", "VENV=/proc/venv", f"PYTHON={sys.executable}", folder=tmp_path)
    assert made.returncode != 0
    assert made.stdout.splitlines()[-1] == (
        "/proc/venv cannot be made here; name a folder that can be written to: make VENV=FOLDER"
    )


def test_the_choice_of_a_lock_is_kept_and_a_missing_network_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "requirements").symlink_to(LOCK)
    # An interpreter that makes an environment whose pip notes what it is asked to install.
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
[ "$2" = venv ] || exit 0
mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp {python} "$3/bin/python"
printf '#!/bin/sh\\necho "$@" >> calls; exit $(cat fails)\\n' > "$3/bin/pip"; chmod +x "$3/bin/pip"
""")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))
    calls, fails = tmp_path / "calls", tmp_path / "fails"
    fails.write_text("1")
    failed = make("setup", folder=tmp_path)
    assert failed.returncode != 0
    assert "the packages of runtime could not be installed" in failed.stdout.splitlines()[-1]
    fails.write_text("0")
    calls.unlink()
    assert make("setup", folder=tmp_path).returncode == 0
    assert [line.split()[-1] for line in calls.read_text().splitlines()] == [
        "requirements/runtime.txt",
        "requirements/build.txt",
        ".",
    ]
    calls.unlink()
    assert make("setup", folder=tmp_path).returncode == 0
    assert not calls.exists()
    assert make("setup", "LOCK=", folder=tmp_path).returncode == 0
    assert make("setup", "EXTRAS=robustness", folder=tmp_path).returncode == 0
    newest = [line.split()[-2:] for line in calls.read_text().splitlines()]
    assert newest == [["-e", "."], ["-e", ".[robustness]"]]
    # Another choice makes the environment anew; where that fails, the one before stays.
    kept = tmp_path / ".venv/kept"
    kept.touch()
    fails.write_text("1")
    failed = make("setup", "LOCK=requirements", folder=tmp_path)
    assert failed.returncode != 0
    assert failed.stdout.splitlines()[-1] == ".venv is as it was"
    assert (tmp_path / ".venv/.lock").read_text() == "\n"
    refused = make("report", "LOCK=requirements", folder=tmp_path)
    assert "LOCK is chosen by make setup LOCK=requirements" in refused.stderr
    fails.write_text("0")
    assert kept.exists()
    assert make("setup", "LOCK=requirements", folder=tmp_path).returncode == 0
    assert not kept.exists()
    assert {path.name for path in tmp_path.glob(".venv*")} == {".venv"}
