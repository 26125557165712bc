"""From an experiment's runs to its figure, tables and verdict: the code shared by the scripts in reproduce/.

``equisep figure NAME [profile=NAME] [source=SOURCE] [tables=FOLDER] [KEY=VALUE …]`` reads the experiment's runs
from the store, or from the wandb logs or project given by ``source`` (see equisep.store.readers). A profile selects
the runs that conf/profile defines; further overrides are those of the sweep. With ``tables`` alone the figure is drawn
from saved tables, for example from the reference results; together with others, they hold the runs that a source lacks.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.claims import Claim, load_claims, name_value, no_claim
from equisep.analysis.descriptions import describe_conditions, describe_course, summarise
from equisep.analysis.experiments import PlannedRun, expand_experiment, last_epoch, load_profile
from equisep.analysis.figures.panels import FITTED, Part, Parts
from equisep.analysis.result import Result, describe_versions
from equisep.analysis.saved_tables import SavedTables, recorded_call, recorded_scope, with_configs
from equisep.analysis.table_files import load_tables
from equisep.analysis.tables import LAYERS_OF, Tables, at_best_learning_rate, collect_tables
from equisep.analysis.verdicts import NO_CLAIM, NOT_TESTED, Verdict, judge
from equisep.config import (
    ALL_CONVENTIONS,
    PAPER,
    Config,
    ConfigError,
    EquisepError,
    Training,
    compose_config,
    own_conf_folder,
    refuse_unknown_words,
)
from equisep.plots import style

NOT_AT_HAND = "the claim is taken from the abstract and a summary: the paper's full text was not at hand"


@dataclass(frozen=True)
class Reproduction:
    """How an experiment becomes a figure and a verdict.

    name: of the experiment. draw: draws the figure, of all conventions together; shows: what its panels show, for the
    caption. The other functions are called once per convention, with the tables under it and the rows of ``runs`` that
    are shown. conditions: columns that define a condition of the claim; the rows shown are those at the best learning
    rate of each.
    statistics: returns the claim's statistics, a row per condition and seed, where a column ``choice`` is a further
    condition; default: the tables' own columns. epochs: the measured epochs to tabulate. published: the learning rate
    of the published figure by condition, where known. remarks: further notes for the reader. extra_tables: further
    tables, by the suffix of their file name. described: whether the statistics of analysis/descriptions.py are
    reported, which are about the law in each condition. kept_layers: the rows of D per layer that are drawn, where
    these are not all. repeats: the column that numbers a condition's networks.
    """

    name: str
    draw: Callable[[Parts], Figure]
    shows: str
    conditions: tuple[str, ...] = ()
    statistics: Callable[[Tables, pd.DataFrame], pd.DataFrame] | None = None
    epochs: Callable[[Training], Sequence[int]] = last_epoch
    published: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    remarks: Callable[[Tables, pd.DataFrame], Sequence[str]] = lambda tables, rows: ()
    extra_tables: Callable[[Tables, pd.DataFrame], Mapping[str, pd.DataFrame]] = lambda tables, rows: {}
    described: bool = True
    repeats: str = "seed"
    kept_layers: Callable[[Tables], pd.DataFrame] = lambda tables: tables.layers

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 if runs are missing, 2 if the arguments are invalid."""
        try:
            tables, results, call = self._read(arguments)
            result = self.make(tables, call)
            result.write(results)
        except EquisepError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return int(NOT_TESTED in result.statuses)

    def _read(self, arguments: Sequence[str]) -> tuple[Tables, Path, Sequence[str]]:
        """Return the tables that arguments ask for, the results folder, and the words that made them."""
        names = ("profile=", "tables=", "source=")
        repeated = [name for name in names if sum(argument.startswith(name) for argument in arguments) > 1]
        if repeated or "source=" in arguments:
            raise ConfigError(f"{(repeated or ['source='])[0]}: must be set once, with a value")
        options = dict(argument.split("=", 1) for argument in arguments if argument.startswith(names))
        overrides = [argument for argument in arguments if not argument.startswith(names)]
        invalid = [override for override in overrides if "=" not in override]
        if invalid:
            expected = "KEY=VALUE overrides, profile=NAME, source=SOURCE or tables=FOLDER"
            raise ConfigError(f"{invalid[0]}: unknown argument; use {expected}")
        refuse_unknown_words(overrides, ("profile", "source", "tables"))
        # A mistake in a claim is found before the runs are read.
        load_claims()
        output = [override for override in overrides if override.startswith("results=")]
        results = Path(compose_config(output).results)
        folder = Path(options["tables"]) if "tables" in options else None
        if folder and len(options) == 1 and overrides == output:
            return self.load(folder), results, recorded_call(folder, self.name) or []
        selected = load_profile(options["profile"]).get(self.name) if "profile" in options else [[]]
        if selected is None:
            raise ConfigError(f"profile={options['profile']}: does not include this experiment; choose another one")
        sweeps = [[*sweep, *overrides] for sweep in selected]
        tables = self.collect(sweeps, options.get("source"), self.saved(folder))
        if tables.missing:
            # A run that is trained is not trained again.
            own = ["--config-dir", str(own_conf_folder())] if own_conf_folder() else []
            problem = f"{tables.missing} runs are missing or not measured under every convention"
            print(f"{self.name}: {problem}; these commands train or measure them:", file=sys.stderr)
            for sweep in sweeps:
                print(f"  {shlex.join(['equisep', '-m', *own, f'experiment={self.name}', *sweep])}", file=sys.stderr)
        return tables, results, arguments

    def saved(self, folder: Path | None) -> SavedTables | None:
        """Return the tables in a folder with the configuration of each row; None without a folder."""
        return with_configs(self.load(folder), folder, self.name) if folder else None

    def load(self, folder: Path) -> Tables:
        """Return the experiment's tables in a folder; raises ConfigError for those of another one."""
        tables = replace(load_tables(folder, self.name), scope=recorded_scope(folder, self.name))
        if not self.keeps_some_layers:
            have = set(map(tuple, tables.layers[list(LAYERS_OF)].drop_duplicates().itertuples(index=False, name=None)))
            rows = tables.runs[tables.runs["train_loss"].notna()]
            lacking = [row for row in rows[list(LAYERS_OF)].itertuples(index=False, name=None) if row not in have]
            if lacking:
                problem = f"{len(lacking)} rows have no layers in {self.name}_layers.csv, such as run {lacking[0][0]}"
                raise ConfigError(f"tables={folder}: {problem}")
        absent = [name for name in (*self.conditions, self.repeats) if name not in tables.runs]
        if absent:
            problem = f"the table of runs has no column {absent[0]}, by which this figure tells its networks apart"
            raise ConfigError(f"tables={folder}: {problem}")
        return tables

    def collect(
        self, sweeps: Sequence[Sequence[str]], source: str | None = None, saved: SavedTables | None = None
    ) -> Tables:
        """Return the tables of the experiment's runs under all given lists of overrides.

        source: see :func:`equisep.analysis.tables.collect_tables`. saved: tables with runs that the source lacks.
        Raises ConfigError if the overrides vary a field that is no condition of the figure, or for an invalid source.
        """
        points = [point for overrides in sweeps for point in expand_experiment(self.name, overrides)]
        for name in points[0].varied:
            values = {point.varied[name] for point in points}
            if name not in (*self.conditions, self.repeats) and len(values) > 1:
                listed = ",".join(map(str, sorted(values)))
                raise ConfigError(f"{name}={listed}: this figure does not vary {name}; choose one value")
        tables = collect_tables(points, self.epochs, source, saved.of if saved else None)
        return replace(tables, layers=self.kept_layers(tables).reset_index(drop=True))

    @property
    def keeps_some_layers(self) -> bool:
        """Whether the tables have D per layer for some of the rows only."""
        return self.kept_layers is not Reproduction.kept_layers

    def parts(self, tables: Tables) -> dict[str, Part]:
        """Return what is drawn and judged under each convention, by its name."""
        under = {convention: tables.under(convention) for convention in tables.conventions}
        return {convention: Part(selected, self.shown(selected)) for convention, selected in under.items()}

    def shown(self, tables: Tables) -> pd.DataFrame:
        """Return the rows at the best learning rate of each condition; ``seed`` is what numbers its networks."""
        runs = tables.runs.assign(seed=tables.runs[self.repeats])
        if "learning_rate" in self.conditions or runs.empty:
            return runs
        return at_best_learning_rate(runs, self.conditions)

    def judge(self, tables: Tables) -> dict[str, Verdict]:
        """Return the verdict on the experiment's claim under each convention."""
        return self._judge(tables, expand_experiment(self.name))

    def _judge(self, tables: Tables, planned: Sequence[PlannedRun]) -> dict[str, Verdict]:
        """Return the verdicts. planned: the runs of the experiment's file."""
        claim = load_claims().get(self.name)
        parts = self.parts(tables) or {PAPER: Part(tables, tables.runs)}
        if claim is None:
            return dict.fromkeys(parts, Verdict(no_claim(self.name), NO_CLAIM, (), {}))
        missing, full_scale = self._missing_reason(tables, planned), _is_full_scale(tables, planned)
        verdicts = {}
        for convention, part in parts.items():
            statistics = self.statistics(part.tables, part.rows) if self.statistics and len(part.rows) else part.rows
            conditions = [column for column in (*self.conditions, "choice") if column in statistics]
            verdicts[convention] = judge(claim, statistics, conditions, missing=missing, full_scale=full_scale)
        return verdicts

    def _missing_reason(self, tables: Tables, points: Sequence[PlannedRun]) -> str:
        """Return why the claim cannot be judged on these tables, given the experiment's runs; '' if it can be."""
        if tables.missing:
            return f"{tables.missing} runs are missing or not measured under every convention"
        if tables.runs.empty:
            return "no runs"
        planned = {self._condition(point): point.config.training.epochs for point in points}
        trained = {key: int(rows["epoch"].max()) for key, rows in self._by_condition(tables.runs).items()}
        absent = [key for key in planned if key not in trained]
        if absent:
            more = ", …" if len(absent) > 1 else ""
            return f"{len(absent)} of {len(planned)} conditions are missing: {self._describe(absent[0])}{more}"
        short = [key for key in planned if trained[key] < planned[key]]
        if short:
            return f"trained for {trained[short[0]]} epochs, the experiment has {planned[short[0]]}"
        epochs = self.epochs(points[0].config.training)
        if len(epochs) > 1 and tables.runs["epoch"].min() > epochs[0]:
            return f"no values at epoch {epochs[0]}"
        return ""

    def _condition(self, point: PlannedRun) -> tuple[Any, ...]:
        config = point.config
        own = {"learning_rate": config.optimizer.learning_rate}
        own |= {"width_multiplier": getattr(config.architecture, "width_multiplier", 1.0)}
        return tuple((point.varied | own)[column] for column in self.conditions)

    def _by_condition(self, rows: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
        return dict(list(rows.groupby(list(self.conditions), dropna=False))) if self.conditions else {(): rows}

    def _describe(self, key: tuple[Any, ...]) -> str:
        return ", ".join(name_value(column, value) for column, value in zip(self.conditions, key, strict=True))

    def compare_rates(self, tables: Tables) -> list[str]:
        """Return a note that compares the best learning rates with the published ones, where those are known."""
        if not self.published:
            return []
        shown = self._by_condition(self.shown(tables))
        best = {key: float(rows["learning_rate"].iloc[0]) for key, rows in shown.items()}
        others = {key: rate for key, rate in best.items() if rate != self.published.get(key)}
        counts = [rows["learning_rate"].nunique() for rows in self._by_condition(tables.runs).values()]
        label = "Best learning rate" if max(counts) > 1 else "Learning rate"
        if not others:
            return [f"{label}: as published in every condition."]
        theirs = {key: self.published[key] for key in others if key in self.published}
        return [f"{label} {self._list_rates(others)}; the published figure has {self._list_rates(theirs)}."]

    def _list_rates(self, rates: Mapping[tuple[Any, ...], float]) -> str:
        values = {key: name_value("learning_rate", rate).removeprefix("rate ") for key, rate in rates.items()}
        return ", ".join(f"{value} ({self._describe(key)})" if key else value for key, value in values.items())

    def make(self, tables: Tables, call: Sequence[str] = ()) -> Result:
        """Return figure, tables and verdicts. call: the arguments that chose the runs; they are recorded.

        There is no figure if no network has a value, and no tables if runs are missing, since partial tables could be
        mistaken for complete ones.
        """
        # It takes a while to compose.
        planned = expand_experiment(self.name)
        verdicts, rows, parts = self._judge(tables, planned), self.shown(tables), self.parts(tables)
        described = {}
        notes, descriptions = list(tables.flaws), []
        if len(rows):
            notes = [*_describe_rows(rows), *notes, *self.compare_rates(tables)]
            if len(rows) < len(tables.runs):
                notes.insert(0, "Shown is the learning rate with the lowest final training loss in each condition.")
            for convention, part in parts.items():
                prefix = f"{convention}: " if len(parts) > 1 else ""
                notes += [prefix + remark for remark in self.remarks(part.tables, part.rows)]
                if self.described:
                    described[convention] = describe_conditions(part.tables, part.rows, self.conditions)
                    descriptions += [prefix + text for text in summarise(described[convention], self.conditions)]
        figure = None
        if rows["train_loss"].notna().any():
            with style():
                figure = self.draw(parts)
        contents: dict[str, pd.DataFrame] = {}
        if len(rows) and not tables.missing:
            contents = {"": tables.runs, "_layers": tables.layers}
            contents |= {"_perturbed": tables.perturbed} if len(tables.perturbed) else {}
            further = {name: dict(self.extra_tables(part.tables, part.rows)) for name, part in parts.items()}
            for convention, table in described.items():
                course = describe_course(parts[convention].tables, parts[convention].rows, self.conditions)
                further[convention] |= {"_statistics": table, "_course": course}
            for suffix in dict.fromkeys(suffix for found in further.values() for suffix in found):
                contents[suffix] = pd.concat(
                    (found[suffix].assign(convention=name) for name, found in further.items() if suffix in found),
                    ignore_index=True,
                )
        scope = describe_scope(tables.runs, load_claims().get(self.name), planned[0].config)
        # Networks and seeds; the rest may be worded otherwise in another version.
        if tables.scope and tables.scope.split("; ")[:2] != scope.split("; ")[:2]:
            notes.insert(0, f"Not all runs of the result that the tables belong to, or others. Its {tables.scope}")
        notes = list(
            dict.fromkeys([*_describe_absence(tables, planned[0].config), *describe_versions(tables.runs), *notes])
        )
        return Result(
            self.name, verdicts, figure, contents, scope, tuple(notes), tuple(call), tuple(descriptions), self.shows
        )


def _is_full_scale(tables: Tables, points: Sequence[PlannedRun]) -> bool:
    """Whether the networks have the size and the learning rates of the experiment's runs."""
    planned = {point.config.optimizer.learning_rate for point in points}
    return bool((tables.runs["width_multiplier"] >= 1).all()) and planned <= set(tables.runs["learning_rate"])


def describe_scope(runs: pd.DataFrame, claim: Claim | None, config: Config) -> str:
    """Return what verdicts are about: networks, seeds, rates, scale and data; and whether the claim was read.

    config: of one of the experiment's runs.
    """
    parts = []
    if len(runs):
        seeds, rates = runs["seed"].nunique(), sorted(set(runs["learning_rate"]))
        named = ", ".join(name_value("learning_rate", rate).removeprefix("rate ") for rate in rates)
        parts += [f"{runs['run'].nunique()} networks", f"{seeds} seed{'s' if seeds != 1 else ''}", f"rates {named}"]
        if "subset_seed" in runs:
            parts.insert(1, f"{runs['subset_seed'].nunique()} draws of the training images")
        if (runs["width_multiplier"] < 1).any():
            parts.append(f"{_list(runs['width_multiplier'])} of the paper's channels and units")
        images = f"{_list(runs['train_images'])} training and {_list(runs['test_images'])} test images"
        # Data sets that an experiment compares are named in its panels.
        data = "" if "dataset" in runs else f" of {name_value('dataset', config.dataset.name)}"
        pixels = f", {config.dataset.size}×{config.dataset.size} pixels" if config.dataset.size else ""
        parts.append(f"{images}{data}{pixels}")
        parts.append(f"{_list(runs.groupby('run')['epoch'].max())} epochs")
    if claim is not None and not claim.full_text:
        parts.append(NOT_AT_HAND)
    return f"Scope: {'; '.join(parts)}." if parts else ""


def _describe_absence(tables: Tables, config: Config) -> list[str]:
    """Return a note on conventions that are missing. config: of one of the experiment's runs."""
    asked = config.measures or ()
    # Networks without batch normalisation have one row for all conventions.
    absent = [] if ALL_CONVENTIONS in tables.conventions else [name for name in asked if name not in tables.conventions]
    return [f"Measured without {', '.join(absent)}."] if absent and len(tables.runs) else []


def _list(values: pd.Series) -> str:
    return ", ".join(f"{value:,g}" for value in sorted(set(values.dropna())))


def _describe_rows(rows: pd.DataFrame) -> list[str]:
    """Return notes on the rows shown: networks that do not fit, diverged or have no law."""
    notes = []
    ends = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    last = ends[ends["convention"] == ends["convention"].iloc[0]]
    accuracy = last["train_accuracy"]
    if accuracy.min() < FITTED:
        spread = f"{accuracy.min():.3g} to {accuracy.max():.3g}, median {accuracy.median():.3g}"
        notes.append(f"Training accuracy {spread}: not all networks fit their data.")
    diverged = int(last["train_loss"].isna().sum())
    if diverged:
        notes.append(f"{diverged} of {len(last)} networks diverged.")
    for convention, group in ends.groupby("convention", sort=False):
        lawless = int((group["r"].isna() & group["train_loss"].notna()).sum())
        if lawless:
            notes.append(f"{convention}: {lawless} of {len(group)} networks have a layer without a usable D.")
    return notes
