"""An experiment's runs in, its figure, its tables and its verdict out: what every script in reproduce/ does.

``python reproduce/NAME.py [profile=NAME] [source=SOURCE] [tables=FOLDER] [KEY=VALUE …]`` looks the experiment's runs
up in the store, or in the wandb logs or the wandb project that ``source`` names (see equisep.store.readers); with a profile
those that conf/profile has it make, with further overrides those of the same sweep. With ``tables`` the figure is
drawn again from tables written before, this package's reference results for example.
"""

import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from equisep.analysis.claims import NOT_RUN, Verdict, judge, load_claims, name_value
from equisep.analysis.experiments import PlannedRun, expand_experiment, last_epoch
from equisep.analysis.figures.panels import save_figure, state_claim
from equisep.analysis.tables import Tables, at_best_learning_rate, collect_tables, load_tables, save_tables
from equisep.config import ConfigError, Training, compose_config, conf_folder
from equisep.files import write_atomically

WHOLE_TEST_SET = 10_000
# Training accuracy from which a network counts as one that fits its data.
FITTED = 0.99


@dataclass(frozen=True)
class Reproduction:
    """How an experiment becomes a figure and a verdict.

    name: the experiment's. draw: the figure of its tables and of the rows that are shown. conditions: columns whose
    values make a condition of the claim; the rows shown are those at the best learning rate of each. statistics:
    a row per condition and seed with the claim's statistics, of the rows shown; None where the tables' own
    columns are those; a column ``choice`` of it is one more condition. epochs: the measured epochs that are looked
    at. published: the learning rate of the published figure, by the values of the conditions, where it is known.
    remarks: further lines for a reader, of the tables and the rows shown. more: further tables of those, by the ending
    of their name.
    """

    name: str
    draw: Callable[[Tables, pd.DataFrame], Figure]
    conditions: tuple[str, ...] = ()
    statistics: Callable[[Tables, pd.DataFrame], pd.DataFrame] | None = None
    epochs: Callable[[Training], Sequence[int]] = last_epoch
    published: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    remarks: Callable[[Tables, pd.DataFrame], Sequence[str]] = lambda tables, rows: ()
    more: Callable[[Tables, pd.DataFrame], Mapping[str, pd.DataFrame]] = lambda tables, rows: {}

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 where runs are missing, 2 where the arguments are wrong."""
        try:
            tables, results = self._read(arguments)
            verdict = self.write(tables, results)
        except ConfigError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return 1 if verdict.status == NOT_RUN else 0

    def _read(self, arguments: Sequence[str]) -> tuple[Tables, Path]:
        ours = ("profile=", "tables=", "source=")
        doubled = [word for word in ours if sum(argument.startswith(word) for argument in arguments) > 1]
        if doubled or "source=" in arguments:
            raise ConfigError(f"{(doubled or ['source='])[0]}: give it once, with a value")
        options = dict(word.split("=", 1) for word in arguments if word.startswith(ours))
        overrides = [word for word in arguments if not word.startswith(ours)]
        strange = [word for word in overrides if "=" not in word]
        if strange:
            raise ConfigError(f"{strange[0]}: give KEY=VALUE overrides, profile=NAME, source=SOURCE or tables=FOLDER")
        elsewhere = [word for word in overrides if word.startswith("results=")]
        results = Path(compose_config(elsewhere).results)
        if "tables" in options:
            if len(options) > 1 or overrides != elsewhere:
                raise ConfigError("tables=…: tables are drawn as they are, give nothing but results= beside it")
            return load_tables(Path(options["tables"]), self.name), results
        asked = load_profile(options["profile"]).get(self.name) if "profile" in options else [[]]
        if asked is None:
            raise ConfigError(f"profile={options['profile']}: it leaves this experiment out")
        sweeps = [[*sweep, *overrides] for sweep in asked]
        tables = self.collect(sweeps, options.get("source"))
        if tables.missing:
            print(f"{self.name}: {tables.missing} runs are missing; these commands train them:", file=sys.stderr)
            for sweep in sweeps:
                print(f"  python -m equisep -m experiment={self.name} {shlex.join(sweep)}", file=sys.stderr)
        return tables, results

    def collect(self, sweeps: Sequence[Sequence[str]], source: str | None = None) -> Tables:
        """Return the tables of the runs of the experiment under each list of overrides, together.

        source: see :func:`equisep.analysis.tables.collect_tables`. Raises ConfigError where the overrides sweep over
        what is no condition of the figure, or the source is none.
        """
        points = [point for overrides in sweeps for point in expand_experiment(self.name, overrides)]
        for name in points[0].varied:
            values = {point.varied[name] for point in points}
            if name not in self.conditions and len(values) > 1:
                raise ConfigError(f"{name}={','.join(map(str, sorted(values)))}: no condition of this figure, give one")
        return collect_tables(points, self.epochs, source)

    def shown(self, tables: Tables) -> pd.DataFrame:
        """Return the rows at the best learning rate of each condition."""
        if "learning_rate" in self.conditions or tables.runs.empty:
            return tables.runs
        return at_best_learning_rate(tables.runs, self.conditions)

    def judge(self, tables: Tables) -> Verdict:
        """Return the verdict of the experiment's claim."""
        claim = load_claims()[self.name]
        rows = self.shown(tables)
        statistics = self.statistics(tables, rows) if self.statistics and len(rows) else rows
        conditions = [column for column in (*self.conditions, "choice") if column in statistics]
        return judge(claim, statistics, conditions, self.lacking(tables))

    def lacking(self, tables: Tables) -> str:
        """Return what keeps the claim from being judged, by the experiment as its file has it; '' for nothing."""
        if tables.missing:
            return f"{tables.missing} runs are missing"
        if tables.runs.empty:
            return "no runs"
        asked = {self._condition(point): point.config.training.epochs for point in expand_experiment(self.name)}
        last = tables.runs.groupby([*self.conditions] or (lambda row: 0))["epoch"].max()
        found = {self._as_key(key): int(epochs) for key, epochs in last.items()}
        absent = [key for key in asked if key not in found]
        if absent:
            more = ", …" if len(absent) > 1 else ""
            return f"{len(absent)} of {len(asked)} conditions are missing: {self._tell(absent[0])}{more}"
        short = [key for key in asked if found[key] < asked[key]]
        if short:
            return f"trained for {found[short[0]]} epochs, the experiment has {asked[short[0]]}"
        return ""

    def _condition(self, point: PlannedRun) -> tuple[Any, ...]:
        rate = {"learning_rate": point.config.optimizer.learning_rate}
        return tuple((point.varied | rate)[column] for column in self.conditions)

    def _as_key(self, key: Any) -> tuple[Any, ...]:
        if not self.conditions:
            return ()
        return key if isinstance(key, tuple) else (key,)

    def _tell(self, key: tuple[Any, ...]) -> str:
        return ", ".join(name_value(column, value) for column, value in zip(self.conditions, key, strict=True))

    def compare_rates(self, tables: Tables) -> list[str]:
        """Return a line on whether the best learning rates are the published ones, where those are known."""
        if not self.published:
            return []
        rows = self.shown(tables)
        groups = rows.groupby(list(self.conditions)) if self.conditions else [((), rows)]
        best = {key: float(group["learning_rate"].iloc[0]) for key, group in groups}
        others = {key: rate for key, rate in best.items() if rate != self.published.get(key)}
        tried = tables.runs.groupby([*self.conditions] or (lambda row: 0))["learning_rate"].nunique()
        chosen = "Best learning rate" if tried.max() > 1 else "Run at"
        if not others:
            return [f"{chosen}: the published one everywhere."]
        theirs = {key: self.published[key] for key in others if key in self.published}
        return [f"{chosen} {self._tell_rates(others)}; the published figure has {self._tell_rates(theirs)}."]

    def _tell_rates(self, rates: Mapping[tuple[Any, ...], float]) -> str:
        told = []
        for key, rate in rates.items():
            where = self._tell(key)
            value = name_value("learning_rate", rate).removeprefix("rate ")
            told.append(f"{value} ({where})" if where else value)
        return ", ".join(told)

    def write(self, tables: Tables, results: Path) -> Verdict:
        """Write figure, tables and verdict below a results folder, say what came out, and return the verdict.

        No figure is drawn where no network has a value, and no tables are written where runs are missing: they
        would pass for whole ones.
        """
        verdict, rows = self.judge(tables), self.shown(tables)
        told = list(tables.flaws)
        if len(rows):
            told = [*notes(tables, rows), *self.compare_rates(tables), *self.remarks(tables, rows)]
        figure = self.draw(tables, rows) if rows["train_loss"].notna().any() else None
        whole = len(rows) > 0 and not tables.missing
        contents = {"": tables.runs, "_layers": tables.layers} if whole else {}
        if whole:
            contents |= {"_perturbed": tables.perturbed} if len(tables.perturbed) else {}
            contents |= self.more(tables, rows)
        Result(self.name, verdict, figure, contents, tuple(told)).write(results)
        return verdict


@dataclass(frozen=True)
class Result:
    """What a script writes: a claim's verdict, the figure, tables by the ending of their name, and notes."""

    name: str
    verdict: Verdict
    figure: Figure | None
    tables: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]

    def write(self, results: Path) -> None:
        """Write figures/, tables/ and verdicts/ below a results folder, and say what came out."""
        verdict = self.verdict
        written: list[Path] = []
        self._remove_earlier(results)
        if self.figure is not None:
            state_claim(self.figure, [f"Claim: {verdict.claim.text}", f"Here: {verdict}", *self.notes])
            written += save_figure(self.figure, results / "figures", self.name)
        written += save_tables(self.tables, results / "tables", self.name)
        record: dict[str, Any] = {
            "experiment": self.name,
            "claim": verdict.claim.text,
            "changed": verdict.claim.changed,
            "verdict": verdict.status,
            "held": verdict.held,
            "conditions": verdict.conditions,
            "statistics": verdict.missing or "; ".join(map(str, verdict.decisive)),
            "notes": self.notes,
            "findings": [
                {
                    "condition": finding.condition,
                    "statistic": finding.criterion.statistic,
                    "wanted": finding.criterion.bound,
                    "holds": finding.holds,
                }
                | {name: _finite(getattr(finding.interval, name)) for name in ("mean", "low", "high", "n")}
                for finding in verdict.findings
            ],
        }
        path = results / "verdicts" / f"{self.name}.json"
        write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False).encode())
        for line in [f"claim: {verdict.claim.text}", f"verdict: {verdict}", *self.notes]:
            print(f"{self.name}: {line}")
        print(f"{self.name}: written: {', '.join(map(str, [*written, path]))}")

    def _remove_earlier(self, results: Path) -> None:
        """Remove what an earlier call wrote: figure, tables and verdict are of the same runs, or not there."""
        try:
            for name in (f"figures/{self.name}.png", f"figures/{self.name}.pdf", f"tables/{self.name}.csv"):
                (results / name).unlink(missing_ok=True)
            for ending in ("layers", "perturbed", "comparisons", "scores"):
                (results / f"tables/{self.name}_{ending}.csv").unlink(missing_ok=True)
            (results / "verdicts").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"results={results}: {error.strerror}; name a folder that can be written to") from None


def _finite(value: float) -> float | None:
    """Return a value as JSON has it, which knows no NaN and no infinity."""
    return value if math.isfinite(value) else None


def notes(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return what a reader must know of the rows shown: scaled networks, part of a test set, runs without a law."""
    told = []
    scaled = sorted({value for value in tables.runs["width_multiplier"] if value < 1})
    if scaled:
        told.append(f"Networks scaled down: {', '.join(f'{value:g}' for value in scaled)} of the channels and units.")
    partial = sorted({int(value) for value in tables.runs["test_images"] if value < WHOLE_TEST_SET})
    if partial:
        told.append(f"Test accuracy on {', '.join(f'{value:,}' for value in partial)} images, part of the test set.")
    last = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    accuracy = last["train_accuracy"]
    if accuracy.min() < FITTED:
        spread = f"{accuracy.median():.3g} [{accuracy.min():.3g}, {accuracy.max():.3g}]"
        told.append(f"Training accuracy {spread}: not all networks fit their data.")
    diverged, lawless = int(last["train_loss"].isna().sum()), int((last["r"].isna() & last["train_loss"].notna()).sum())
    if diverged:
        told.append(f"{diverged} of {len(last)} networks diverged.")
    if lawless:
        told.append(f"{lawless} of {len(last)} networks have a layer without a usable D, no line is fitted to them.")
    return [*told, *tables.flaws]


def load_profile(name: str) -> dict[str, list[list[str]]]:
    """Return a profile's experiments, each with the overrides of its sweeps; raises ConfigError for an unknown one."""
    folder = conf_folder() / "profile"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"profile={name}: no such profile, choose one of {known}")
    experiments: dict[str, list[list[str]]] = yaml.safe_load(path.read_text())
    return experiments
