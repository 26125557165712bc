"""From an experiment's runs to its figure, tables and verdict: the code shared by the scripts in reproduce/.

``equisep figure NAME [profile=NAME] [source=SOURCE] [tables=FOLDER] [KEY=VALUE …]`` reads the experiment's runs
from the store, or from the wandb logs or project given by ``source`` (see equisep.store.readers). A profile selects
the runs that conf/profile defines; further overrides are those of the sweep. With ``tables`` the figure is drawn from
saved tables instead, for example from the reference results.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from equisep.analysis.claims import NO_CLAIM, NOT_RUN, Claim, Verdict, claims_digest, judge, load_claims, name_value
from equisep.analysis.experiments import PlannedRun, expand_experiment, last_epoch
from equisep.analysis.figures.panels import save_figure, state_claim
from equisep.analysis.tables import Tables, at_best_learning_rate, collect_tables, load_tables, save_tables
from equisep.config import ConfigError, EquisepError, Training, compose_config, conf_folder, refuse_unknown_words
from equisep.store import lock_in_use

# Of the file names of an experiment's tables.
SUFFIXES = ("", "_layers", "_perturbed", "_comparisons", "_scores")
WHOLE_TEST_SET = 10_000
# Training accuracy from which a network counts as fitting its data.
FITTED = 0.99


@dataclass(frozen=True)
class Reproduction:
    """How an experiment becomes a figure and a verdict.

    name: of the experiment. draw: returns the figure for the tables and the rows shown. conditions: columns that define
    a condition of the claim; the rows shown are those at the best learning rate of each. statistics: returns the
    claim's statistics for the rows shown, a row per condition and seed, where a column ``choice`` is a further
    condition; default: the tables' own columns. epochs: the measured epochs to tabulate. published: the learning rate
    of the published figure by condition, where known. remarks: further notes for the reader. extra_tables: further
    tables, by the suffix of their file name.
    """

    name: str
    draw: Callable[[Tables, pd.DataFrame], Figure]
    conditions: tuple[str, ...] = ()
    statistics: Callable[[Tables, pd.DataFrame], pd.DataFrame] | None = None
    epochs: Callable[[Training], Sequence[int]] = last_epoch
    published: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    remarks: Callable[[Tables, pd.DataFrame], Sequence[str]] = lambda tables, rows: ()
    extra_tables: Callable[[Tables, pd.DataFrame], Mapping[str, pd.DataFrame]] = lambda tables, rows: {}

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 if runs are missing, 2 if the arguments are invalid."""
        try:
            tables, results = self._read(arguments)
            verdict = self.write(tables, results, arguments)
        except EquisepError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return 1 if verdict.status == NOT_RUN else 0

    def _read(self, arguments: Sequence[str]) -> tuple[Tables, Path]:
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
        output = [override for override in overrides if override.startswith("results=")]
        results = Path(compose_config(output).results)
        if "tables" in options:
            if len(options) > 1 or overrides != output:
                raise ConfigError(f"tables={options['tables']}: can be combined with results=FOLDER only")
            return load_tables(Path(options["tables"]), self.name), results
        selected = load_profile(options["profile"]).get(self.name) if "profile" in options else [[]]
        if selected is None:
            raise ConfigError(f"profile={options['profile']}: does not include this experiment; choose another one")
        sweeps = [[*sweep, *overrides] for sweep in selected]
        tables = self.collect(sweeps, options.get("source"))
        if tables.missing:
            print(f"{self.name}: {tables.missing} runs are missing; these commands train them:", file=sys.stderr)
            for sweep in sweeps:
                print(f"  {shlex.join(['equisep', '-m', f'experiment={self.name}', *sweep])}", file=sys.stderr)
        return tables, results

    def collect(self, sweeps: Sequence[Sequence[str]], source: str | None = None) -> Tables:
        """Return the tables of the experiment's runs under all given lists of overrides.

        source: see :func:`equisep.analysis.tables.collect_tables`. Raises ConfigError if the overrides vary a field
        that is no condition of the figure, or for an invalid source.
        """
        points = [point for overrides in sweeps for point in expand_experiment(self.name, overrides)]
        for name in points[0].varied:
            values = {point.varied[name] for point in points}
            if name not in self.conditions and len(values) > 1:
                listed = ",".join(map(str, sorted(values)))
                raise ConfigError(f"{name}={listed}: this figure does not vary {name}; choose one value")
        return collect_tables(points, self.epochs, source)

    def shown(self, tables: Tables) -> pd.DataFrame:
        """Return the rows at the best learning rate of each condition."""
        if "learning_rate" in self.conditions or tables.runs.empty:
            return tables.runs
        return at_best_learning_rate(tables.runs, self.conditions)

    def judge(self, tables: Tables) -> Verdict:
        """Return the verdict of the experiment's claim."""
        claim = load_claims().get(self.name)
        if claim is None:
            return Verdict(Claim(self.name, "no claim stated", 0, (), (), "all", ()), NO_CLAIM, (), 0, 0)
        rows = self.shown(tables)
        statistics = self.statistics(tables, rows) if self.statistics and len(rows) else rows
        conditions = [column for column in (*self.conditions, "choice") if column in statistics]
        return judge(claim, statistics, conditions, self.missing_reason(tables))

    def missing_reason(self, tables: Tables) -> str:
        """Return why the claim cannot be judged on these tables, given the experiment's file; '' if it can be."""
        if tables.missing:
            return f"{tables.missing} runs are missing"
        if tables.runs.empty:
            return "no runs"
        planned = {self._condition(point): point.config.training.epochs for point in expand_experiment(self.name)}
        trained = {key: int(rows["epoch"].max()) for key, rows in self._by_condition(tables.runs).items()}
        absent = [key for key in planned if key not in trained]
        if absent:
            more = ", …" if len(absent) > 1 else ""
            return f"{len(absent)} of {len(planned)} conditions are missing: {self._describe(absent[0])}{more}"
        short = [key for key in planned if trained[key] < planned[key]]
        if short:
            return f"trained for {trained[short[0]]} epochs, the experiment has {planned[short[0]]}"
        return ""

    def _condition(self, point: PlannedRun) -> tuple[Any, ...]:
        rate = {"learning_rate": point.config.optimizer.learning_rate}
        return tuple((point.varied | rate)[column] for column in self.conditions)

    def _by_condition(self, rows: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
        return dict(list(rows.groupby(list(self.conditions)))) if self.conditions else {(): rows}

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

    def write(self, tables: Tables, results: Path, call: Sequence[str] = ()) -> Verdict:
        """Write the result of tables to a results folder, print a summary, and return the verdict; see make."""
        result = self.make(tables, call)
        result.write(results)
        return result.verdict

    def make(self, tables: Tables, call: Sequence[str] = ()) -> Result:
        """Return figure, tables and verdict. call: the arguments that chose the runs; they are recorded.

        There is no figure if no network has a value, and no tables if runs are missing, since partial tables could be
        mistaken for complete ones.
        """
        verdict, rows = self.judge(tables), self.shown(tables)
        notes = list(tables.flaws)
        if len(rows):
            notes = [*_describe_rows(tables, rows), *notes, *self.compare_rates(tables), *self.remarks(tables, rows)]
        figure = self.draw(tables, rows) if rows["train_loss"].notna().any() else None
        contents: dict[str, pd.DataFrame] = {}
        if len(rows) and not tables.missing:
            contents = {"": tables.runs, "_layers": tables.layers, **self.extra_tables(tables, rows)}
            contents |= {"_perturbed": tables.perturbed} if len(tables.perturbed) else {}
        return Result(self.name, verdict, figure, contents, tuple(notes), tuple(call))


@dataclass(frozen=True)
class Result:
    """The output of a script: a claim's verdict, the figure, tables by the suffix of their file name, and notes."""

    name: str
    verdict: Verdict
    figure: Figure | None
    tables: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]
    call: tuple[str, ...] = ()

    def write(self, results: Path) -> None:
        """Write figures/, tables/ and verdicts/ in a results folder, together or not at all, and print a summary.

        A result that could not be judged does not replace one that was: it is written to RESULTS/partial.
        """
        verdict, note = self.verdict, ""
        if verdict.status in (NOT_RUN, NO_CLAIM) and self._judged(results):
            note = f"{results}/verdicts/{self.name}.json has a verdict and is kept; this result is in {results}/partial"
            results = results / "partial"
        try:
            results.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=results, prefix=f".{self.name}-") as folder:
                self._write_files(Path(folder))
                written = self._replace(Path(folder), results)
        except OSError as error:
            raise ConfigError(f"results={results}: {error.strerror}; choose a writable folder") from None
        output = f"written: {', '.join(map(str, written))}"
        for line in filter(None, [f"claim: {verdict.claim.text}", f"verdict: {verdict}", *self.notes, note, output]):
            print(f"{self.name}: {line}")

    def _judged(self, results: Path) -> bool:
        try:
            earlier = json.loads((results / "verdicts" / f"{self.name}.json").read_bytes())
            return earlier["verdict"] not in (NOT_RUN, NO_CLAIM)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _replace(self, folder: Path, results: Path) -> list[Path]:
        """Move the files of a folder to their places, the verdict last, and remove other files of an earlier result."""
        new = sorted(
            (path.relative_to(folder) for path in folder.rglob("*.*")), key=lambda path: path.suffix == ".json"
        )
        names = (
            f"figures/{self.name}.png",
            f"figures/{self.name}.pdf",
            *(f"tables/{self.name}{s}.csv" for s in SUFFIXES),
        )
        for name in names:
            if Path(name) not in new:
                (results / name).unlink(missing_ok=True)
        for path in new:
            (results / path.parent).mkdir(exist_ok=True)
            (folder / path).replace(results / path)
        return [results / path for path in new]

    def _write_files(self, results: Path) -> None:
        if self.figure is not None:
            state_claim(self.figure, [f"Claim: {self.verdict.claim.text}", f"Here: {self.verdict}", *self.notes])
            save_figure(self.figure, results / "figures", self.name)
        save_tables(self.tables, results / "tables", self.name)
        (results / "verdicts").mkdir()
        path = results / "verdicts" / f"{self.name}.json"
        path.write_text(json.dumps(self.record(), indent=1, ensure_ascii=False))

    def record(self) -> dict[str, Any]:
        """Return the verdict with all findings as plain values, as it is written to verdicts/NAME.json."""
        verdict = self.verdict
        return {
            "experiment": self.name,
            "claim": verdict.claim.text,
            "changed": verdict.claim.changed,
            # Where a result lies is no part of how it was made.
            "call": [word for word in self.call if not word.startswith("results=")],
            "claims": claims_digest(),
            "lock": lock_in_use(),
            "verdict": verdict.status,
            "held": verdict.held,
            "conditions": verdict.conditions,
            "statistics": verdict.missing or "; ".join(map(str, verdict.decisive)),
            "notes": self.notes,
            "findings": [
                {
                    "condition": finding.condition,
                    "statistic": finding.criterion.statistic,
                    "threshold": finding.criterion.bound,
                    "holds": finding.holds,
                }
                # JSON has neither NaN nor infinity.
                | {name: value if math.isfinite(value) else None for name, value in asdict(finding.interval).items()}
                for finding in verdict.findings
            ],
        }


def _describe_rows(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return notes on the rows shown: scaled networks, part of a test set, networks that do not fit or diverged."""
    notes = []
    scaled = sorted({value for value in tables.runs["width_multiplier"] if value < 1})
    if scaled:
        notes.append(f"Networks scaled down: {', '.join(f'{value:g}' for value in scaled)} of the channels and units.")
    partial = sorted({int(value) for value in tables.runs["test_images"] if value < WHOLE_TEST_SET})
    if partial:
        notes.append(f"Test accuracy on {', '.join(f'{value:,}' for value in partial)} images, part of the test set.")
    last = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    accuracy = last["train_accuracy"]
    if accuracy.min() < FITTED:
        spread = f"{accuracy.median():.3g} [{accuracy.min():.3g}, {accuracy.max():.3g}]"
        notes.append(f"Training accuracy {spread}: not all networks fit their data.")
    diverged, lawless = int(last["train_loss"].isna().sum()), int((last["r"].isna() & last["train_loss"].notna()).sum())
    if diverged:
        notes.append(f"{diverged} of {len(last)} networks diverged.")
    if lawless:
        notes.append(f"{lawless} of {len(last)} networks have a layer without a usable D and are not fitted.")
    return notes


def load_profile(name: str) -> dict[str, list[list[str]]]:
    """Return a profile's experiments with the overrides of their sweeps; raises ConfigError for an unknown profile."""
    folder = conf_folder() / "profile"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        choices = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"profile={name}: no such profile; choose one of {choices}")
    experiments: dict[str, list[list[str]]] = yaml.safe_load(path.read_text())
    return experiments
