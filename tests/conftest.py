"""What tests share: real data, small configs, and stores in temporary folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equisep.config import Config, compose_config
from equisep.data import Data, load_data
from equisep.execution.train import execute
from equisep.store import Outcome

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ.setdefault("EQUISEP_DATA", str(ROOT / "data"))
os.environ["WANDB_ERROR_REPORTING"] = "false"


def run_one(config: Config) -> Outcome:
    (outcome,) = execute([config])
    return outcome


@pytest.fixture(scope="session")
def fashion() -> Data:
    """The paper's 1,000 training images and the test set of Fashion-MNIST 10×10; fetched where they are not there."""
    return load_data(compose_config([]).dataset)


@pytest.fixture
def configure(tmp_path: Path, fashion: Data) -> Callable[..., Config]:
    """Compose a config that writes below the test's own folder."""

    def composed(*overrides: str) -> Config:
        return compose_config([f"results={tmp_path}", "tracking=off", "training=smoke", *overrides])

    return composed
