"""Saved tables in place of a store: their networks are compared with others, and experiments continue from them.

A row of a saved table is known by the configuration that its network was trained and measured with: that of
``experiment=NAME`` with the overrides recorded in NAME.json and the values in the row's columns.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import starmap
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from equisep.analysis.experiments import column_of
from equisep.analysis.table_files import load_tables
from equisep.analysis.tables import Tables
from equisep.config import (
    ALL_CONVENTIONS,
    NOT_IN_IDENTITY,
    PAPER,
    PROTOCOL,
    Config,
    ConfigError,
    by_convention,
    compose_sweep,
    config_hash,
    convention_of,
    conventions,
    format_config_error,
    group_options,
    has_batch_norm,
    identity_of_measure,
    measure_id,
    robustness_id,
    sweep_grid,
    to_plain,
)

# Columns of a saved table that the table of runs has too.
SAME = ("run", "epoch", "seconds", "ended", "engine", "commit", "torch", "processor", "lock")
# Fields with a column in every table, whether the experiment varies them or not.
EVERYWHERE = ("optimizer.learning_rate", "seed")
SCALE = "architecture.width_multiplier"
# Groups of the configuration whose fields a result depends on.
GROUPS = ("architecture", "dataset", "optimizer", "training", "measure", "measures", "robustness")


@dataclass(frozen=True)
class SavedTables:
    """An experiment's saved tables. configs: of each row of ``tables.runs``, its measure that of the row."""

    tables: Tables
    configs: tuple[Config, ...]

    def of(self, config: Config, epochs: Sequence[int]) -> Tables | None:
        """Return the rows of a run at some epochs, under each convention that it asks for; None if one is not there.

        A robustness evaluation that is asked for has to be there too. The course over epochs is not saved.
        """
        found = [self._rows.get((*_key(alone), epoch)) for alone in by_convention(config) for epoch in epochs]
        if any(places is None or len(places) > 1 for places in found):
            return None
        runs = self.tables.runs.iloc[[place for places in found if places for place in places]]
        # Not all layers of all epochs are kept.
        kept = runs[[key in self._layers for key in _keys(runs[self.tables.layers_of])]]
        layers = [self._layers[key] for key in _keys(kept[self.tables.layers_of])]
        perturbed: list[pd.DataFrame] = []
        if config.robustness is not None and runs["train_loss"].notna().all():
            asked = [robustness_id(config.robustness, alone.measure) for alone in by_convention(config)]
            own = [self.configs[number] for number in runs.index]
            evaluated = {robustness_id(row.robustness, row.measure) for row in own if row.robustness is not None}
            keys = list(dict.fromkeys(_keys(runs[["run", "convention"]])))
            perturbed = [self._perturbed[key] for key in keys if key in self._perturbed]
            if not set(asked) <= evaluated or len(perturbed) < len(keys):
                return None
        return replace(
            self.tables,
            runs=runs,
            layers=pd.concat(layers) if layers else self.tables.layers[:0],
            perturbed=pd.concat(perturbed) if perturbed else self.tables.perturbed[:0],
        )

    @cached_property
    def _rows(self) -> Mapping[Hashable, list[int]]:
        keys = {number: _key(config) for number, config in _distinct(self.configs).items()}
        rows: defaultdict[Hashable, list[int]] = defaultdict(list)
        for place, (config, epoch) in enumerate(zip(self.configs, self.tables.runs["epoch"], strict=True)):
            rows[(*keys[id(config)], epoch)].append(place)
        return rows

    @cached_property
    def _layers(self) -> dict[Hashable, pd.DataFrame]:
        return dict(list(self.tables.layers.groupby(self.tables.layers_of, sort=False)))

    @cached_property
    def _perturbed(self) -> dict[Hashable, pd.DataFrame]:
        return dict(list(self.tables.perturbed.groupby(["run", "convention"], sort=False)))


def _distinct(configs: Iterable[Config]) -> dict[int, Config]:
    """Return the configs by their id(): many rows share one."""
    return {id(config): config for config in configs}


def _key(config: Config) -> tuple[str, str]:
    """Return what tells a run's measurement from others; without batch normalisation all conventions are one."""
    normalised = has_batch_norm(config.architecture)
    measure = config.measure if normalised else replace(config.measure, **conventions()[PAPER])
    return config_hash(config), measure_id(measure)


def _keys(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table.itertuples(index=False, name=None))


def with_configs(tables: Tables, folder: Path, name: str) -> SavedTables:
    """Return an experiment's tables, read from a folder, with the configuration of each row.

    Raises ConfigError if the table of runs lacks the column of a field that the experiment varies, and if a row was
    made with another configuration than NAME.json records; of tables without a column ``config``, which were written
    before there was one, if NAME.json does not say how they were made.
    """
    runs = tables.runs.reset_index(drop=True)
    columns = {key: column_of(key) for key in (*sweep_grid(name), *EVERYWHERE)}
    absent = [column for column in columns.values() if column not in runs]
    if absent:
        raise ConfigError(f"tables={folder}: {name}.csv has no column {absent[0]}, which the experiment varies")
    scaled = runs["width_multiplier"].map(lambda scale: "" if scale == 1 or SCALE in columns else str(scale))
    # One composition for all rows that differ in nothing else.
    kinds = runs[list(dict.fromkeys(columns.values()))].assign(scale=scaled)
    distinct = kinds.drop_duplicates()
    identified = bool(runs["config"].notna().all())
    common = [f"experiment={name}", *_recorded_overrides(folder, name, columns, needed=not identified)]
    jobs = [
        [*common, *(f"{key}={_as_typed(kind[column])}" for key, column in columns.items())]
        # Feed-forward networks have no such field.
        + ([f"{SCALE}={kind['scale']}"] if kind["scale"] else [])
        for kind in distinct.to_dict("records")
    ]
    composed = dict(zip(_keys(distinct), _compose(jobs, folder), strict=True))

    @cache
    def config_of(kind: tuple[Any, ...], convention: str, view: str) -> Config:
        return _as_measured(composed[kind], convention, view, folder)

    measured = zip(_keys(kinds), runs["convention"], runs["view"], strict=True)
    configs = tuple(starmap(config_of, measured))
    if identified:
        hashes = {number: config_hash(config) for number, config in _distinct(configs).items()}
        for run, expected, config in zip(runs["run"], runs["config"], configs, strict=True):
            if hashes[id(config)] != expected:
                problem = f"run {run} has another configuration than {name}.json and its row say"
                raise ConfigError(f"tables={folder}: {problem}; copy the two files of one result")
    return SavedTables(replace(tables, runs=runs), configs)


def _as_measured(config: Config, convention: str, view: str, folder: Path) -> Config:
    """Return the config with the measure of a row, by its convention's name or else the fields in its columns."""
    named = PAPER if convention == ALL_CONVENTIONS else convention
    if named in conventions():
        return replace(config, measure=replace(config.measure, view=view, **conventions()[named]))
    measure = replace(config.measure, view=view)
    if convention_of(identity_of_measure(measure)) != convention:
        raise ConfigError(f"tables={folder}: convention {convention!r} is none of {', '.join(conventions())}")
    return replace(config, measure=measure)


def load_saved_runs(folder: Path) -> pd.DataFrame:
    """Return the runs of all saved tables FOLDER/NAME/NAME.csv, NAME an experiment, like :func:`equisep.load_runs`.

    A row per run, measure, epoch, split and layer. What tables do not hold is missing: the epochs' training losses,
    ranks, and D on the test set. A run that is in several tables counts
    once. Raises ConfigError if there is no such table or one cannot be read.
    """
    names = [name for name in group_options()["experiment"] if (folder / name / f"{name}.csv").is_file()]
    if not names:
        raise ConfigError(f"tables={folder}: no folder NAME with a table NAME.csv of an experiment")
    saved = [with_configs(load_tables(folder / name, name), folder / name, name) for name in names]
    runs = pd.concat(map(_as_runs, saved), ignore_index=True)
    measured = set(runs.loc[runs["D"].notna(), "run"])
    for name, one in zip(names, saved, strict=True):
        rows = one.tables.runs[one.tables.runs["train_loss"].notna()]
        lacking = sorted(set(rows["run"]) - measured)
        if lacking:
            problem = f"{len(lacking)} runs have no layers in {name}_layers.csv, such as {lacking[0]}"
            raise ConfigError(f"tables={folder / name}: {problem}")
    return runs.drop_duplicates(["run", "measure", "epoch", "split", "layer"], ignore_index=True)


def _as_runs(saved: SavedTables) -> pd.DataFrame:
    """Return one experiment's tables as a table of runs."""
    runs, layers = saved.tables.runs, saved.tables.layers
    distinct = _distinct(saved.configs)
    # Keys such as "architecture.depth".
    flat = pd.json_normalize([to_plain(config) for config in distinct.values()])
    flat = flat.assign(measure=[measure_id(config.measure) for config in distinct.values()])
    places = {number: place for place, number in enumerate(distinct)}
    described = flat.iloc[[places[id(config)] for config in saved.configs]].reset_index(drop=True)
    known = runs[[column for column in SAME if column in runs]].assign(
        state=runs["train_loss"].isna().map({True: "diverged", False: "done"}),
        flaw="",
        protocol=PROTOCOL,
        convention=runs["convention"].replace(ALL_CONVENTIONS, PAPER),
    )
    train = runs[saved.tables.layers_of].assign(number=runs.index).merge(layers)
    train = train.set_index("number")[["layer", "name", "D"]].assign(
        split="train", loss=runs["train_loss"], accuracy=runs["train_accuracy"]
    )
    test = pd.DataFrame({"split": "test", "layer": 0, "accuracy": runs["test_accuracy"]}).dropna()
    return known.join(described).join(pd.concat([train, test]), how="inner")


def _compose(jobs: Sequence[Sequence[str]], folder: Path) -> list[Config]:
    """Return the configs of jobs; raises ConfigError that names the folder if one is not valid."""
    try:
        configs = compose_sweep(jobs)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"tables={folder}: {format_config_error(error)}") from None
    for config in configs:
        if isinstance(config, ConfigError):
            raise ConfigError(f"tables={folder}: {config}")
    return [config for config in configs if not isinstance(config, ConfigError)]


def recorded_call(folder: Path, name: str) -> list[str] | None:
    """Return the words of the command that a result was made with, as NAME.json has them; None if it does not say.

    Raises ConfigError for a file that cannot be read, or that is of another experiment.
    """
    call = _recorded(folder, name).get("call")
    if call is not None and not (isinstance(call, list) and all(isinstance(line, str) for line in call)):
        raise ConfigError(f"tables={folder}: {folder / name}.json cannot be read (call is no list of words)")
    return call


def recorded_scope(folder: Path, name: str) -> str:
    """Return what a result's verdicts are about, as NAME.json has it; '' if it does not say."""
    return str(_recorded(folder, name).get("scope", ""))


def _recorded(folder: Path, name: str) -> Mapping[str, Any]:
    """Return the record of a result, NAME.json, empty if there is none."""
    path = folder / f"{name}.json"
    if not path.exists():
        return {}
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
        experiment = record.get("experiment", name)
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"tables={folder}: {path} cannot be read ({reason})") from None
    if experiment != name:
        raise ConfigError(f"tables={folder}: {path} is of experiment={experiment}")
    return record


def _recorded_overrides(folder: Path, name: str, columns: Collection[str], *, needed: bool) -> list[str]:
    """Return the overrides of a result's runs that they depend on and that have no column in its table.

    needed: whether there has to be a record of them.
    """
    call = recorded_call(folder, name)
    if call is None and needed and not (folder / f"{name}.json").exists():
        problem = f"without {name}.json, or a column config, it is not known how {name}.csv was made"
        raise ConfigError(f"tables={folder}: {problem}")
    try:
        lines = [shlex.split(line) for line in call or ()]
    except ValueError as error:
        raise ConfigError(f"tables={folder}: {name}.json cannot be read ({error})") from None
    by_key: dict[str, str] = {}
    for word in dict.fromkeys(word for line in lines for word in line):
        key = word.partition("=")[0].lstrip("+~")
        in_identity = key.partition(".")[0] in GROUPS and key not in NOT_IN_IDENTITY
        if not in_identity or key in (*columns, SCALE):
            continue
        # Several sweeps, of which some have the word.
        partial = any(len(line) > 1 for line in lines) and not all(word in line for line in lines)
        if key in by_key or partial:
            both = (
                f"{by_key[key]} and {word} are both recorded" if key in by_key else f"{word} is recorded for some runs"
            )
            raise ConfigError(f"tables={folder}: {both}, and no column says what holds for a run")
        by_key[key] = word
    return list(by_key.values())


def _as_typed(value: object) -> object:
    """Return a value as on the command line: where a column has missing values, its integers are read as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
