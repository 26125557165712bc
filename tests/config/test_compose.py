"""Composition: the jobs of a sweep, composed together, equal the jobs composed one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import HydraException

from equisep.config import Config, ConfigError, compose_config, compose_sweep, sweep_grid
from tests.conftest import Ended

JOBS = [
    ["seed=1"],
    ["seed=2"],
    ["architecture.depth=8", "optimizer=sgd", "seed=3"],
    ["optimizer=sgd", "architecture.depth=20", "training.milestones=[10,20]"],
    ["seed=4", "dataset.subset_seed=${seed}"],
    ["seed=5", "dataset.subset_seed=${seed}"],
    ["optimizer.learning_rates={4: 1e-3}", "architecture.depth=4", "seed=6"],
    ["architecture=vgg13", "dataset=fashion_mnist_32x32", "optimizer.learning_rate=1e-3"],
    ["robustness=standard", "robustness.draws=3", "seed=7", "seed=8"],
]


def test_jobs_composed_together_equal_jobs_composed_one_by_one() -> None:
    together = compose_sweep(JOBS)
    assert together == [compose_config(overrides) for overrides in JOBS]
    subsets = [config.dataset.subset_seed for config in together[4:6] if isinstance(config, Config)]
    assert subsets == [4, 5]


def test_an_invalid_job_is_returned_as_its_error() -> None:
    first, wrong, seed, last = compose_sweep([["seed=1"], ["architecture.depth=1"], ["seed=99999999999"], ["seed=2"]])
    assert isinstance(first, Config)
    assert isinstance(last, Config)
    assert (first.seed, last.seed) == (1, 2)
    assert isinstance(wrong, ConfigError)
    assert "architecture.depth=1" in str(wrong)
    assert isinstance(seed, ConfigError)
    assert "seed=99999999999" in str(seed)


@pytest.mark.parametrize("name", ["it's", "a&b", "ä, ö", "a=b(c)", "a{b;c", 'q"q', "a b", "<i>", "plain/2"])
def test_a_folder_may_have_any_name(name: str) -> None:
    assert compose_config([f"results={name}"]).results == name
    assert compose_config([f"results='{name}'" if "'" not in name else f'results="{name}"']).results == name


@pytest.mark.parametrize("override", ["architecture.dept=4", "architecture.depth=deep", "optimizer=lion", "+x=1"])
def test_an_override_that_cannot_be_applied_fails_the_whole_sweep(override: str) -> None:
    jobs = [["seed=1"], [override, "seed=2"]]
    if override.startswith("+"):
        # An added key is an error of its job: Hydra can apply it.
        assert isinstance(compose_sweep(jobs)[1], ConfigError)
    else:
        with pytest.raises((ConfigError, HydraException)):
            compose_sweep(jobs)


def test_the_grid_of_an_experiment_is_read_from_its_file() -> None:
    assert sweep_grid("optimizers") == {
        "architecture.depth": "4,8,20",
        "optimizer": "sgd,momentum,adam",
        "seed": "range(666,676)",
    }


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_config_groups_in_a_folder_of_the_user_are_used(
    multirun: list[str], equisep: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/mine.yaml").write_text("defaults:\n  - smoke\n  - _self_\n\nepochs: 1\n")
    overrides = ["training=mine", "architecture.depth=4", "tracking=off", f"results={tmp_path}", "dataset.per_class=10"]
    completed = equisep("--config-dir", str(tmp_path), *multirun, *overrides)
    assert completed.code == 0, completed.err
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    assert len(metrics.read_text().splitlines()) == 1
