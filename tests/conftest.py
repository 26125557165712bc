"""What tests share: real data, small configs, and stores in temporary folders."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from equisep.commands.main import main
from equisep.config import Config, compose_config
from equisep.data import Data, load_data
from equisep.execution.train import execute
from equisep.store import Outcome

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ.setdefault("EQUISEP_DATA", str(ROOT / "data"))
os.environ["WANDB_ERROR_REPORTING"] = "false"


def pytest_collection_finish() -> None:
    """Let garbage collections skip what was imported, which is never garbage."""
    gc.collect()
    gc.freeze()


def run_one(config: Config) -> Outcome:
    (outcome,) = execute([config])
    return outcome


@pytest.fixture(scope="session")
def fashion() -> Data:
    """The paper's 1,000 training images and the test set of Fashion-MNIST 10×10; fetched where they are not there."""
    return load_data(compose_config([]).dataset)


@pytest.fixture
def configure(tmp_path: Path, fashion: Data) -> Callable[..., Config]:
    """Compose a config of a small network that writes below the test's own folder, measured on the training set."""

    def composed(*overrides: str) -> Config:
        usual = {"architecture": "architecture.depth=4", "measure.test_epochs": "measure.test_epochs=[]"}
        small = [usual[key] for key in usual if not any(override.startswith(key) for override in overrides)]
        fixed = [f"results={tmp_path}", "tracking=off", "training=smoke", "compute.checkpoint_seconds=0"]
        return compose_config([*fixed, *small, *overrides])

    return composed


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def equisep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Call the command line in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Ended:
        capsys.readouterr()
        code = main(words)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, fashion: Data) -> Path:
    """A results folder with four short runs, SGD and Adam with seed 1 and 2, made once; tests only read it."""
    results = tmp_path_factory.mktemp("trained")
    short = [f"results={results}", "tracking=off", "training=smoke"]
    for optimizer in ("sgd", "adam"):
        execute([compose_config([*short, f"optimizer={optimizer}", f"seed={seed}"]) for seed in (1, 2)])
    return results


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes modules of a user's, text by name, into a working folder; they are forgotten at the end."""
    written: list[str] = []

    def write(**texts: str) -> Path:
        written.extend(texts)
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    yield write
    for name in written:
        sys.modules.pop(name, None)
