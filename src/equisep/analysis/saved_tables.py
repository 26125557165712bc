"""Tables written and read. Saved ones stand in for a store: runs are compared, and experiments continue from them.

A row of a saved table is known by the configuration that its network was trained and measured with: that of
``experiment=NAME`` with the overrides recorded in NAME.json and the values in the row's columns.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import starmap
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from equisep.analysis.experiments import column_of
from equisep.analysis.tables import (
    DERIVED,
    LAYER_COLUMNS,
    PERMUTATION,
    PERTURBED_COLUMNS,
    RUN_COLUMNS,
    Tables,
    with_derived,
)
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


# Text even if it consists of digits.
TEXT_COLUMNS = ("run", "engine", "commit", "torch", "processor", "ended", "lock")
# Columns of runs that were not always recorded.
ADDED = ("lock", "engine", "r_test", "decay_ratio_test")


def save_tables(tables: Mapping[str, pd.DataFrame], folder: Path, name: str) -> list[Path]:
    """Write tables, by the suffix of their name, as FOLDER/NAME.csv, FOLDER/NAME_layers.csv, …; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}.csv" for suffix in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        table.to_csv(path, index=False, float_format="%.9g")
    return paths


def load_tables(folder: Path, name: str) -> Tables:
    """Return tables that :func:`save_tables` wrote; raises ConfigError for missing or unreadable files or columns."""
    tables: dict[str, pd.DataFrame] = {}
    for suffix, columns in (("", RUN_COLUMNS), ("_layers", LAYER_COLUMNS), ("_perturbed", PERTURBED_COLUMNS)):
        path = folder / f"{name}{suffix}.csv"
        if suffix == "_perturbed" and not path.exists():
            continue
        try:
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise ConfigError(f"tables={folder}: {path} cannot be read ({reason})") from None
        if table.empty and suffix == "":
            raise ConfigError(f"tables={folder}: {path} has no rows")
        if suffix == "":
            # A varied field without a value, which pandas reads as a missing one.
            varied = {str(name): "null" for name in table if name not in RUN_COLUMNS}
            table = table.astype(dict.fromkeys(varied, object)).fillna(varied)
            # Runs did not always record these.
            table = table.assign(**{name: None for name in ADDED if name not in table})
        elif PERMUTATION in table:
            table = table.astype({PERMUTATION: object}).fillna({PERMUTATION: "null"})
        # The only one that there was.
        table = table if "convention" in table else table.assign(convention=PAPER)
        absent = [column for column in columns if column not in (*table, *DERIVED)]
        if absent:
            raise ConfigError(f"tables={folder}: {path} lacks the column {absent[0]}")
        tables[suffix] = table
    perturbed = tables.get("_perturbed", pd.DataFrame(columns=list(PERTURBED_COLUMNS)))
    return Tables(with_derived(tables[""], tables["_layers"]), tables["_layers"], 0, perturbed=perturbed)


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
        keys = {id(config): _key(config) for config in self.configs}
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


def _key(config: Config) -> tuple[str, str]:
    """Return what tells a run's measurement from others; without batch normalisation all conventions are one."""
    normalised = has_batch_norm(config.architecture)
    measure = config.measure if normalised else replace(config.measure, **conventions()[PAPER])
    return config_hash(config), measure_id(measure)


def _keys(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table.itertuples(index=False, name=None))


def with_configs(tables: Tables, folder: Path, name: str) -> SavedTables:
    """Return an experiment's tables, read from a folder, with the configuration of each row.

    Raises ConfigError if the table of runs lacks the column of a field that the experiment varies, or NAME.json a
    readable record of the other fields, and if a row has fewer or more layers than it counts.
    """
    runs = tables.runs.reset_index(drop=True)
    counted = tables.layers.groupby(tables.layers_of).size().rename("recorded")
    counts = runs.join(counted, on=tables.layers_of)[["run", "recorded", "points"]].dropna()
    for row in counts[counts["recorded"] != counts["points"]].head(1).to_dict("records"):
        problem = f"run {row['run']} has {row['recorded']:g} of {row['points']:g} layers in {name}_layers.csv"
        raise ConfigError(f"tables={folder}: {problem}")
    columns = {key: column_of(key) for key in (*sweep_grid(name), *EVERYWHERE)}
    absent = [column for column in columns.values() if column not in runs]
    if absent:
        raise ConfigError(f"tables={folder}: {name}.csv has no column {absent[0]}, which the experiment varies")
    scaled = runs["width_multiplier"].map(lambda scale: "" if scale == 1 or SCALE in columns else str(scale))
    # One composition for all rows that differ in nothing else.
    kinds = runs[list(dict.fromkeys(columns.values()))].assign(scale=scaled)
    distinct = kinds.drop_duplicates()
    common = [f"experiment={name}", *_recorded_overrides(folder / f"{name}.json", columns)]
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
    return SavedTables(replace(tables, runs=runs), tuple(starmap(config_of, measured)))


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
    saved = (with_configs(load_tables(folder / name, name), folder / name, name) for name in names)
    runs = pd.concat([_as_runs(tables) for tables in saved], ignore_index=True)
    return runs.drop_duplicates(["run", "measure", "epoch", "split", "layer"], ignore_index=True)


def _as_runs(saved: SavedTables) -> pd.DataFrame:
    """Return one experiment's tables as a table of runs."""
    runs, layers = saved.tables.runs, saved.tables.layers
    distinct = {id(config): config for config in saved.configs}
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


def _recorded_overrides(path: Path, columns: Collection[str]) -> list[str]:
    """Return the overrides of a result's runs that they depend on and that have no column in its table."""
    if not path.is_file():
        return []
    try:
        call = json.loads(path.read_bytes()).get("call") or []
        words = dict.fromkeys(word for line in call for word in shlex.split(line))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"tables={path.parent}: {path} cannot be read ({str(error).splitlines()[0]})") from None
    by_key: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        in_identity = key.partition(".")[0] in GROUPS and key not in NOT_IN_IDENTITY
        if not in_identity or key in (*columns, SCALE):
            continue
        if key in by_key:
            problem = f"{by_key[key]} and {word} are both recorded, and no column says which holds for a run"
            raise ConfigError(f"tables={path.parent}: {problem}")
        by_key[key] = word
    return list(by_key.values())


def _as_typed(value: object) -> object:
    """Return a value as on the command line: where a column has missing values, its integers are read as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
