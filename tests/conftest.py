"""What tests share: real data, small configs, and stores in temporary folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from equisep import schema
from equisep.data import Data, load_data
from equisep.run import Outcome, execute
from equisep.schema import Config, compose_config

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ.setdefault("EQUISEP_DATA", str(ROOT / "data"))
os.environ["WANDB_ERROR_REPORTING"] = "false"


def compose_untyped(overrides: Sequence[str]) -> DictConfig:
    schema.register()
    with initialize_config_dir(str(schema.conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


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
