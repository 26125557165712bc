"""Saved tables in place of a store: their networks are compared with others, and experiments continue from them."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from equisep.analysis.experiments import PlannedRun, column_of
from equisep.analysis.tables import LAYERS_OF, Tables, load_tables, name_conventions
from equisep.config import (
    ALL_CONVENTIONS,
    PAPER,
    PROTOCOL,
    Config,
    ConfigError,
    compose_sweep,
    conventions,
    format_config_error,
    group_options,
    sweep_grid,
    to_plain,
)

# Columns of a saved table that the table of runs has too.
SAME = ("run", "epoch", "seconds", "ended", "engine", "commit", "torch", "processor", "lock")
# Fields with a column in every table, whether the experiment varies them or not.
EVERYWHERE = ("optimizer.learning_rate", "seed")
# Columns that, with those of the varied fields, tell an experiment's runs apart.
IDENTIFYING = ("seed", "learning_rate", "width_multiplier", "view")
SCALE = "architecture.width_multiplier"


def load_saved_runs(folder: Path) -> pd.DataFrame:
    """Return the runs of all saved tables FOLDER/NAME/NAME.csv, NAME an experiment, like :func:`equisep.load_runs`.

    A row per run, measure, epoch, split and layer; the configuration is that of ``experiment=NAME`` with the overrides
    recorded in NAME.json and the values in the row's columns. What tables do not hold is missing: the epochs' training
    losses, ranks, and D on the test set. A run that is in several tables counts once. Raises ConfigError if there is no
    such table or one cannot be read.
    """
    names = [name for name in group_options()["experiment"] if (folder / name / f"{name}.csv").is_file()]
    if not names:
        raise ConfigError(f"tables={folder}: no folder NAME with a table NAME.csv of an experiment")
    runs = pd.concat([_runs_of(folder / name, name) for name in names], ignore_index=True)
    return runs.drop_duplicates(["run", "measure", "epoch", "split", "layer"], ignore_index=True)


def complete_from(saved: Tables, tables: Tables, points: Sequence[PlannedRun]) -> Tables:
    """Return tables with the planned runs that they lack, as far as saved tables of the experiment hold them.

    See :func:`are_saved`. The course over epochs is not saved. points: the planned runs.
    """
    places = {_key(point): place for place, point in enumerate(points)}
    known = _places(tables.runs, points[0], places)
    held = {places[_key(point)] for point, found in zip(points, are_saved(saved, points), strict=True) if found}
    of_saved = _places(saved.runs, points[0], places)
    added = of_saved.isin(held - set(known.dropna()))
    rows = saved.runs[added]
    both = [table for table in (tables.runs, rows[list(tables.runs)]) if len(table)]
    runs = pd.concat(both) if both else tables.runs
    runs = runs.iloc[np.argsort(pd.concat([known, of_saved[added]]).to_numpy(), kind="stable")]
    belonging = rows[list(LAYERS_OF)].drop_duplicates()
    layers = pd.concat([tables.layers, saved.layers.merge(belonging, on=list(LAYERS_OF))], ignore_index=True)
    perturbed = saved.perturbed.merge(rows[["run", "convention"]].drop_duplicates(), on=["run", "convention"])
    return replace(
        tables,
        runs=runs.reset_index(drop=True),
        layers=layers.drop_duplicates([*LAYERS_OF, "layer"], ignore_index=True),
        perturbed=pd.concat([tables.perturbed, perturbed], ignore_index=True).drop_duplicates(ignore_index=True),
        missing=tables.missing - of_saved[added].nunique(),
    )


def are_saved(saved: Tables, points: Sequence[PlannedRun]) -> list[bool]:
    """Return which planned runs saved tables of their experiment hold, under all conventions that they ask for.

    A saved run is a planned one if all varied fields, seed, learning rate, scale of channels, view and number of epochs
    are equal; the other fields have to be. A robustness evaluation that is asked for must be there too. Raises
    ConfigError for tables without a column of these.
    """
    places = {_key(point): place for place, point in enumerate(points)}
    rows = saved.runs.assign(place=_places(saved.runs, points[0], places)).dropna(subset=["place"])
    conventions_of: dict[Any, set[str]] = {place: set(own) for place, own in rows.groupby("place")["convention"]}
    epochs = rows.groupby("place")["epoch"].max()
    diverged = set(rows.loc[rows["train_loss"].isna(), "place"])
    evaluated = set(rows.loc[rows["run"].isin(saved.perturbed["run"]), "place"]) | diverged
    found = []
    for point in points:
        place = places[_key(point)]
        complete = set(name_conventions(point.config)) <= conventions_of.get(place, set())
        complete = complete and epochs[place] == point.config.training.epochs
        found.append(complete and (point.config.robustness is None or place in evaluated))
    return found


def _key(point: PlannedRun) -> tuple[str, ...]:
    config = point.config
    scale = getattr(config.architecture, "width_multiplier", 1.0)
    own = (config.seed, config.optimizer.learning_rate, scale, config.measure.view)
    return tuple(str(_as_typed(value)) for value in (*point.varied.values(), *own))


def _places(rows: pd.DataFrame, point: PlannedRun, places: Mapping[tuple[str, ...], int]) -> pd.Series:
    """Return the place of each row of a table of runs among the planned runs, one of them given; NaN for others."""
    columns = [*point.varied, *IDENTIFYING]
    absent = [name for name in columns if name not in rows]
    if absent:
        raise ConfigError(
            f"the saved table of runs has no column {absent[0]}, which tells runs of the experiment apart"
        )
    keys = (tuple(str(_as_typed(value)) for value in row) for row in rows[columns].itertuples(index=False))
    return pd.Series([places.get(key) for key in keys], index=rows.index, dtype=float)


def _runs_of(folder: Path, name: str) -> pd.DataFrame:
    """Return the runs of one experiment's tables."""
    tables = load_tables(folder, name)
    # A convention without a name is of an experiment that varies its fields, and compared with nothing here.
    named = tables.runs["convention"].isin((*conventions(), ALL_CONVENTIONS))
    rows = tables.runs[named].reset_index(drop=True)
    columns = {key: column_of(key) for key in (*sweep_grid(name), *EVERYWHERE)}
    columns = {key: column for key, column in columns.items() if column in rows}
    kinds = rows[list(dict.fromkeys((*columns.values(), "width_multiplier", "view", "convention")))].drop_duplicates()
    common = [f"experiment={name}", *_recorded_overrides(folder / f"{name}.json", columns)]
    jobs = [
        [*common, *(f"{key}={_as_typed(kind[column])}" for key, column in columns.items())]
        # Feed-forward networks have no such field.
        + ([f"{SCALE}={kind['width_multiplier']}"] if kind["width_multiplier"] != 1 and SCALE not in columns else [])
        for kind in kinds.to_dict("records")
    ]
    described = []
    for kind, config in zip(kinds.to_dict("records"), _composed(jobs, folder), strict=True):
        convention = PAPER if kind["convention"] == ALL_CONVENTIONS else kind["convention"]
        measure = replace(config.measure, view=kind["view"], **conventions()[convention])
        plain = to_plain(replace(config, measure=measure))
        # A name of the measure within its run, as good as its id.
        identity = f"{convention}, {kind['view']}, {measure.permutation_seed}"
        described.append({"measure": identity, "convention": convention} | _flat(plain))
    configurations = pd.DataFrame(described)
    runs = rows.merge(kinds.assign(place=range(len(kinds))), on=list(kinds), how="left")
    known = runs[["place", *(column for column in SAME if column in runs)]].assign(
        state=runs["train_loss"].isna().map({True: "diverged", False: "done"}), flaw="", protocol=PROTOCOL
    )
    train = runs[list(LAYERS_OF)].assign(number=runs.index).merge(tables.layers, on=list(LAYERS_OF))
    train = train.set_index("number")[["layer", "name", "D"]].assign(
        split="train", loss=runs["train_loss"], accuracy=runs["train_accuracy"]
    )
    test = pd.DataFrame({"split": "test", "layer": 0, "accuracy": runs["test_accuracy"]}).dropna()
    measured = known.join(pd.concat([train, test]), how="inner")
    return measured.merge(configurations, left_on="place", right_index=True).drop(columns="place")


def _composed(jobs: Sequence[Sequence[str]], folder: Path) -> list[Config]:
    """Return the configs of jobs; raises ConfigError that names the folder if one is not valid."""
    try:
        configs = compose_sweep(jobs)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"tables={folder}: {format_config_error(error)}") from None
    for config in configs:
        if isinstance(config, ConfigError):
            raise ConfigError(f"tables={folder}: {config}")
    return [config for config in configs if not isinstance(config, ConfigError)]


def _recorded_overrides(path: Path, columns: Collection[str]) -> list[str]:
    """Return the overrides of all runs of a result that are not in the columns of its table."""
    if not path.is_file():
        return []
    try:
        call = json.loads(path.read_bytes()).get("call") or []
        words = [word for line in call for word in shlex.split(line)]
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"tables={path.parent}: {path} cannot be read ({str(error).splitlines()[0]})") from None
    return [word for word in dict.fromkeys(words) if word.partition("=")[0] not in (*columns, SCALE, "profile")]


def _as_typed(value: object) -> object:
    """Return a value as on the command line: where a column has missing values, its integers are read as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flat(plain: dict[str, object]) -> dict[str, object]:
    """Return nested containers as one, with keys such as "architecture.depth"."""
    return {str(key): value for key, value in pd.json_normalize(plain).iloc[0].items()}
