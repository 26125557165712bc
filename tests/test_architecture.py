"""The structure of the package: who imports whom, what a fresh process loads, how large a file is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import equisep
from tests.conftest import ROOT

STORE = ROOT / "tests/miniature_store"
# What reading, judging and measuring could load by mistake; each takes from a tenth of a second to seconds.
HEAVY = (
    "torch",
    "torchvision",
    "wandb",
    "hydra",
    "omegaconf",
    "pandas",
    "scipy",
    "statsmodels",
    "matplotlib",
    "seaborn",
)


def load_docs_imports() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_imports", ROOT / "docs/imports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Return the heavy packages that a fresh process has loaded after some code."""
    code += f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_levels_and_imports_between_subpackages_are_few() -> None:
    structure = load_docs_imports()
    edges = structure.imports_between_subpackages()
    assert max(structure.levels(edges).values()) <= 7
    # The command connects all others, and is counted by itself.
    of_commands = sum(count for (importer, _), count in edges.items() if importer == "equisep.commands")
    assert of_commands <= 44
    # Every file that draws takes its style from one place.
    of_style = sum(count for (_, imported), count in edges.items() if imported == "equisep.plots")
    assert sum(edges.values()) - of_commands - of_style <= 121


def test_no_file_is_much_longer_than_350_lines() -> None:
    lines = load_docs_imports().lines("src", "reproduce")
    assert len(lines) > 80
    assert [path for path, count in lines.items() if count > 360] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import equisep; dir(equisep)") == set()
    subpackages = ("analysis", "config", "data", "execution", "measures", "networks", "robustness", "store", "training")
    assert loaded_by("\n".join(f"import equisep.{subpackage}" for subpackage in subpackages)) == set()


def test_measuring_loads_torch_and_numpy_alone() -> None:
    measure = """
import torch, equisep
network = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU())
inputs, labels = torch.randn(50, 20), torch.arange(50) % 5
layers = equisep.measure_separation(network, inputs, labels, layers=["1"])
equisep.fit_law([layer.fuzziness for layer in layers.values()])
"""
    assert loaded_by(measure) == {"torch"}


def test_reading_a_table_loads_no_torch() -> None:
    loaded = loaded_by("import sys, equisep; assert len(equisep.load_runs(sys.argv[1]))", str(STORE))
    assert "pandas" in loaded
    assert not loaded & {"torch", "torchvision", "wandb", "matplotlib"}


def test_judging_and_writing_the_report_load_no_torch(tmp_path: Path) -> None:
    judge = """
import sys
from equisep.analysis.figures.catalogue import REPRODUCTIONS
from equisep.commands.main import main
folder, results = sys.argv[1:]
assert REPRODUCTIONS["frozen"].main([f"tables={folder}/frozen", f"results={results}"]) == 0
assert main(["report", f"results={results}"]) == 0
"""
    loaded = loaded_by(judge, str(ROOT / "results/reference"), str(tmp_path))
    assert "seaborn" in loaded
    assert not loaded & {"torch", "torchvision", "wandb"}
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("name", equisep.__all__)
def test_public_names_load_when_they_are_asked_for(name: str) -> None:
    assert callable(getattr(equisep, name))
    assert name in dir(equisep)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fuzzines"):
        _ = equisep.fuzzines  # type: ignore[attr-defined]
