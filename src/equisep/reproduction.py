"""An experiment's runs in, its figure, its tables and its verdict out: what every script in reproduce/ does.

``python reproduce/NAME.py [profile=NAME] [tables=FOLDER] [KEY=VALUE …]`` looks the experiment's runs up in the
store; with a profile those that conf/profile has it make, with further overrides those of the same sweep. With
``tables`` the figure is drawn again from tables written before, this package's reference results for example.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from equisep.claims import NOT_RUN, Verdict, judge, load_claims, name_value
from equisep.experiments import Tables, at_best_learning_rate, collect_tables, expand_experiment, load_tables
from equisep.figures import save_figure, state_claim
from equisep.files import write_atomically
from equisep.runs import DamagedRun
from equisep.schema import ConfigError, compose_config, conf_folder

WHOLE_TEST_SET = 10_000
# Training accuracy from which a network counts as one that fits its data.
FITTED = 0.99


@dataclass(frozen=True)
class Reproduction:
    """How an experiment becomes a figure and a verdict.

    name: the experiment's. draw: the figure of its tables and of the rows that are shown. conditions: columns whose
    values make a condition of the claim; the rows shown are those at the best learning rate of each. statistics:
    a row per condition and seed with the claim's statistics, of the rows shown; None where the tables' own
    columns are those. epochs: the measured epochs that are looked at; None for the last. published: the learning
    rate of the published figure, by the values of the conditions, where it is known.
    """

    name: str
    draw: Callable[[Tables, pd.DataFrame], Figure]
    conditions: tuple[str, ...] = ()
    statistics: Callable[[Tables, pd.DataFrame], pd.DataFrame] | None = None
    epochs: tuple[int, ...] | None = None
    published: Mapping[tuple[Any, ...], float] = field(default_factory=dict)

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 where runs are missing, 2 where the arguments are wrong."""
        try:
            options = dict(word.split("=", 1) for word in arguments if word.startswith(("profile=", "tables=")))
            overrides = [word for word in arguments if not word.startswith(("profile=", "tables="))]
            results = Path(compose_config([word for word in overrides if word.startswith("results=")]).results)
            if "tables" in options:
                tables = load_tables(Path(options["tables"]), self.name)
            else:
                asked = load_profile(options["profile"]).get(self.name) if "profile" in options else [[]]
                if asked is None:
                    raise ConfigError(f"profile={options['profile']}: it leaves this experiment out")
                sweeps = [[*sweep, *overrides] for sweep in asked]
                tables = self.collect(sweeps)
                if tables.missing:
                    print(
                        f"{self.name}: {tables.missing} runs are missing; these commands train them:", file=sys.stderr
                    )
                for sweep in sweeps if tables.missing else []:
                    print(f"  python -m equisep -m experiment={self.name} {shlex.join(sweep)}", file=sys.stderr)
            verdict = self.write(tables, results)
        except (ConfigError, DamagedRun) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return 1 if verdict.word == NOT_RUN else 0

    def collect(self, sweeps: Sequence[Sequence[str]]) -> Tables:
        """Return the tables of the runs of the experiment under each list of overrides, together."""
        points = [point for overrides in sweeps for point in expand_experiment(self.name, overrides)]
        return collect_tables(points, self.epochs)

    def shown(self, tables: Tables) -> pd.DataFrame:
        """Return the rows at the best learning rate of each condition."""
        conditions = [column for column in self.conditions if column != "learning_rate"]
        return tables.runs if "learning_rate" in self.conditions else at_best_learning_rate(tables.runs, conditions)

    def judge(self, tables: Tables) -> Verdict:
        """Return the verdict of the experiment's claim."""
        claim = load_claims()[self.name]
        rows = self.shown(tables)
        statistics = self.statistics(tables, rows) if self.statistics and len(rows) else rows
        conditions = [column for column in self.conditions if column in statistics]
        return judge(claim, statistics, conditions, tables.missing)

    def compare_rates(self, tables: Tables) -> list[str]:
        """Return a line on whether the best learning rates are the published ones, where those are known."""
        if not self.published:
            return []
        rows = self.shown(tables)
        groups = rows.groupby(list(self.conditions)) if self.conditions else [((), rows)]
        best = {key: float(group["learning_rate"].iloc[0]) for key, group in groups}
        others = {key: rate for key, rate in best.items() if rate != self.published.get(key)}
        chosen = "Best learning rate" if tables.runs["learning_rate"].nunique() > len(set(best.values())) else "Run at"
        if not others:
            return [f"{chosen}: the published one everywhere."]
        theirs = {key: self.published[key] for key in others if key in self.published}
        return [f"{chosen} {self._tell_rates(others)}; the published figure has {self._tell_rates(theirs)}."]

    def _tell_rates(self, rates: Mapping[tuple[Any, ...], float]) -> str:
        told = []
        for key, rate in rates.items():
            where = ", ".join(name_value(column, value) for column, value in zip(self.conditions, key, strict=True))
            value = name_value("learning_rate", rate).removeprefix("rate ")
            told.append(f"{value} ({where})" if where else value)
        return ", ".join(told)

    def write(self, tables: Tables, results: Path) -> Verdict:
        """Write figure, tables and verdict below a results folder, say what came out, and return the verdict."""
        verdict = self.judge(tables)
        told = [*notes(tables, self.shown(tables)), *self.compare_rates(tables)] if len(tables.runs) else []
        written: list[Path] = []
        if len(tables.runs):
            figure = self.draw(tables, self.shown(tables))
            state_claim(figure, [f"Claim: {verdict.claim.text}", f"Here: {verdict}", *told])
            written += save_figure(figure, results / "figures", self.name)
            written += tables.save(results / "tables", self.name)
        record: dict[str, Any] = {
            "experiment": self.name,
            "claim": verdict.claim.text,
            "changed": verdict.claim.changed,
            "verdict": verdict.word,
            "held": verdict.held,
            "conditions": verdict.conditions,
            "statistics": "; ".join(map(str, verdict.decisive)) or verdict.missing,
            "notes": told,
            "findings": [
                {
                    "condition": finding.condition,
                    "statistic": finding.criterion.statistic,
                    "wanted": finding.criterion.bound,
                    "holds": finding.holds,
                }
                | {name: getattr(finding.interval, name) for name in ("mean", "low", "high", "n")}
                for finding in verdict.findings
            ],
        }
        path = results / "verdicts" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False).encode())
        for line in [f"claim: {verdict.claim.text}", f"verdict: {verdict}", *told]:
            print(f"{self.name}: {line}")
        print(f"{self.name}: written: {', '.join(map(str, [*written, path]))}")
        return verdict


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
        told.append(f"{lawless} of {len(last)} networks have a dead layer (D = 0), no line is fitted to them.")
    return told


def load_profile(name: str) -> dict[str, list[list[str]]]:
    """Return a profile's experiments, each with the overrides of its sweeps; raises ConfigError for an unknown one."""
    folder = conf_folder() / "profile"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"profile={name}: no such profile, choose one of {known}")
    experiments: dict[str, list[list[str]]] = yaml.safe_load(path.read_text())
    return experiments


def rise_beyond_best_depth(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed ``rise``: D of the deepest network's last layer over that of the best depth, less 1.

    The best depth is the one with the lowest median over seeds; ``best_depth`` tells it.
    """
    last = rows.pivot_table(index="seed", columns="depth", values="D_last")
    best = last.median().idxmin()
    return pd.DataFrame({"rise": last[last.columns.max()] / last[best] - 1, "best_depth": best}).reset_index()


def compare_views(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the statistics per block and per layer, and ``residual_excess``: how much worse layers fit."""
    block, layer = (rows[rows["view"] == view] for view in ("block", "layer"))
    both = block.merge(layer, on="seed", suffixes=("_block", "_layer"))
    return both.assign(residual_excess=both["relative_residual_layer"] - both["relative_residual_block"])
