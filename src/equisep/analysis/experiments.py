"""The runs of an experiment's file in conf/, and the experiments of a profile."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from equisep.config import Config, ConfigError, Training, compose_sweep, format_config_error, profile_files, sweep_grid


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment: the values of the varied fields, by name, the full config, and its overrides."""

    varied: dict[str, Any]
    config: Config
    overrides: tuple[str, ...] = ()


# Fields that a grid may vary and that have their own column in every table.
NOT_VARIED = ("seed", "optimizer.learning_rate", "measure.view", "architecture.width_multiplier")
# Overrides of the launcher, which do not change the runs.
LAUNCHER = ("hydra.", "hydra/")


def load_profile(name: str) -> dict[str, list[list[str]]]:
    """Return a profile's experiments with the overrides of their sweeps; raises ConfigError for an unknown profile."""
    files = profile_files()
    if name not in files:
        raise ConfigError(f"profile={name}: no such profile; choose one of {', '.join(sorted(files))}")
    experiments: dict[str, list[list[str]]] = yaml.safe_load(files[name].read_text())
    return experiments


def column_of(key: str) -> str:
    """Return the column of a field, or of a group, in an experiment's tables."""
    return key.rsplit(".", maxsplit=1)[-1]


def expand_experiment(name: str, overrides: Sequence[str] = ()) -> list[PlannedRun]:
    """Return the runs of ``equisep -m experiment=NAME OVERRIDES…``, in the sweep's order.

    Raises ConfigError if one of them cannot be composed.
    """
    try:
        return _expand(name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(format_config_error(error)) from None


def sweeps_of(points: Sequence[PlannedRun]) -> list[tuple[str, ...]]:
    """Return the overrides of sweeps that make exactly these runs: one for those that differ in their seed alone."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for point in points:
        others = tuple(word for word in point.overrides if not word.startswith(("experiment=", "seed=")))
        seeds.setdefault(others, []).append(point.config.seed)
    return [(*others, f"seed={','.join(map(str, own))}") for others, own in seeds.items()]


def _expand(name: str, overrides: Sequence[str]) -> list[PlannedRun]:
    grid = [f"{key}={values}" for key, values in sweep_grid(name).items()]
    requested = [override for override in overrides if not override.startswith(LAUNCHER)]
    choices: dict[str, list[str]] = {}
    varied: dict[str, None] = {}
    for number, override in enumerate(OverridesParser.create().parse_overrides([*grid, *requested])):
        key = override.get_key_element().lstrip("+")
        sweeps = override.is_sweep_override()
        choices[key] = list(override.sweep_string_iterator()) if sweeps else [override.get_value_element_as_str()]
        if number < len(grid) or sweeps:
            varied[key] = None
    columns = {key: column_of(key) for key in varied if key not in NOT_VARIED}
    chosen = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    jobs = [[f"experiment={name}", *(f"{key}={value}" for key, value in choice.items())] for choice in chosen]
    planned = []
    for choice, job, config in zip(chosen, jobs, compose_sweep(jobs), strict=True):
        if isinstance(config, ConfigError):
            raise config
        values = {column: _value(config, key, choice[key]) for key, column in columns.items()}
        planned.append(PlannedRun(values, config, tuple(job)))
    return planned


def _value(config: Config, key: str, chosen: str) -> Any:
    """Return the value of a field, or the name of a chosen group."""
    value: Any = config
    for name in key.split("."):
        # Arguments of a target of the user's are a mapping.
        value = value.get(name) if isinstance(value, dict) else getattr(value, name)
    return value if isinstance(value, int | float | str) else chosen


def last_epoch(training: Training) -> tuple[int, ...]:
    """Return the last epoch."""
    return (training.epochs,)


def first_and_last_epoch(training: Training) -> tuple[int, ...]:
    """Return epoch 0 and the last epoch."""
    return tuple(sorted({0, training.epochs}))


def every_snapshot(training: Training) -> tuple[int, ...]:
    """Return the epochs of all snapshots."""
    return training.kept_epochs()
