"""The result of an experiment, a verdict under each convention with figure and tables, written to a results folder."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from equisep.analysis.claims import claims_digest
from equisep.analysis.figures.panels import FORMATS, save_figure
from equisep.analysis.table_files import save_tables
from equisep.analysis.verdicts import NO_CLAIM, NOT_TESTED, Finding, Verdict
from equisep.config import ConfigError, conf_folder
from equisep.plots import style
from equisep.store import lock_in_use

# Of the file names of an experiment's tables.
SUFFIXES = ("", "_layers", "_statistics", "_course", "_perturbed", "_comparisons", "_scores")


@dataclass(frozen=True)
class Result:
    """The output of a script.

    verdicts: on the claim, by convention. tables: by the suffix of their file name. scope: what the verdicts are about:
    networks, seeds, rates, data. notes: further ones for the reader. call: the arguments that chose the runs.
    descriptions: statistics that are not judged, in words. shows: what the figure's panels show.
    """

    name: str
    verdicts: Mapping[str, Verdict]
    figure: Figure | None
    tables: Mapping[str, pd.DataFrame]
    scope: str
    notes: tuple[str, ...]
    call: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    shows: str = ""

    @property
    def statuses(self) -> tuple[str, ...]:
        """The status of the verdict under each convention."""
        return tuple(verdict.status for verdict in self.verdicts.values())

    @property
    def words(self) -> str:
        """The verdict's words: "reproduced" or, where conventions differ, "paper: reproduced; evaluation: partly"."""
        if len(set(self.statuses)) == 1:
            return self.statuses[0]
        return "; ".join(f"{convention}: {verdict.status}" for convention, verdict in self.verdicts.items())

    @property
    def statements(self) -> tuple[str, ...]:
        """A line per convention with its verdict and the statistics that decide it."""
        return tuple(f"{convention}: {verdict}" for convention, verdict in self.verdicts.items())

    def write(self, results: Path) -> None:
        """Write figures/, tables/ and verdicts/ in a results folder, together or not at all, and print a summary.

        A result that could not be judged does not replace one that was: it is written to RESULTS/partial.
        """
        note = ""
        if set(self.statuses) & {NOT_TESTED, NO_CLAIM} and self._judged(results):
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
        claim = next(iter(self.verdicts.values())).claim.text
        verdicts = [f"verdict, {statement}" for statement in self.statements]
        for line in filter(
            None, [f"claim: {claim}", *verdicts, self.scope, *self.notes, *self.descriptions, note, output]
        ):
            print(f"{self.name}: {line}")

    def _judged(self, results: Path) -> bool:
        try:
            earlier = json.loads((results / "verdicts" / f"{self.name}.json").read_bytes())
            return all(verdict["verdict"] not in (NOT_TESTED, NO_CLAIM) for verdict in earlier["verdicts"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _replace(self, folder: Path, results: Path) -> list[Path]:
        """Move the files of a folder to their places, the verdict last, and remove other files of an earlier result."""
        new = sorted(
            (path.relative_to(folder) for path in folder.rglob("*.*")), key=lambda path: path.suffix == ".json"
        )
        names = (
            *(f"figures/{self.name}.{kind}" for kind in (*FORMATS, "md")),
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
            caption = self.caption()
            with style():
                save_figure(self.figure, results / "figures", self.name, caption)
            (results / "figures" / f"{self.name}.md").write_text(caption)
        save_tables(self.tables, results / "tables", self.name)
        (results / "verdicts").mkdir()
        path = results / "verdicts" / f"{self.name}.json"
        path.write_text(json.dumps(self.record(), indent=1, ensure_ascii=False))

    def caption(self) -> str:
        """Return the figure's caption: what it shows, the claim, the verdicts, statistics, notes."""
        claim = next(iter(self.verdicts.values())).claim.text
        verdicts = [f"Verdict, {statement}." for statement in self.statements]
        lines = [self.shows, f"Claim: {claim}", *verdicts, self.scope, *self.notes, *self.descriptions]
        return "\n\n".join(filter(None, lines)) + "\n"

    def record(self) -> dict[str, Any]:
        """Return the verdicts with all findings as plain values, as they are written to verdicts/NAME.json."""
        claim = next(iter(self.verdicts.values())).claim
        return {
            "experiment": self.name,
            "claim": claim.text,
            "changed": claim.changed,
            "call": without_places(self.call),
            "claims": claims_digest(),
            "lock": lock_in_use(),
            "verdict": self.words,
            "former": former_verdicts().get(self.name),
            "shows": self.shows,
            "scope": self.scope,
            "notes": self.notes,
            "descriptions": self.descriptions,
            "verdicts": {
                convention: {
                    "verdict": verdict.status,
                    "counts": verdict.counts if verdict.outcomes else "",
                    "later_seeds": verdict.later,
                    "statistics": verdict.missing or "; ".join(map(str, verdict.decisive)),
                    "findings": [_as_plain(finding) for finding in verdict.findings],
                }
                for convention, verdict in self.verdicts.items()
            },
        }


def without_places(words: Sequence[str]) -> list[str]:
    """Return the words of a command without those that say where files lie: a result does not depend on them.

    A project of wandb is named.
    """
    folders = ("results=", "dataset.root=", "source=", "tables=")
    return [word for word in words if word.startswith("source=wandb:") or not word.startswith(folders)]


def _as_plain(finding: Finding) -> dict[str, Any]:
    numbers = {name: getattr(finding.interval, name) for name in ("mean", "low", "high")}
    return {
        "condition": finding.condition,
        "statistic": finding.criterion.statistic,
        "threshold": finding.relation,
        "outcome": finding.outcome,
        "n": finding.interval.n,
        # JSON has neither NaN nor infinity.
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
    }


@lru_cache(maxsize=1)
def former_verdicts() -> dict[str, str]:
    """Return the verdicts under the rules before those of conf/claims.yaml, by experiment."""
    text = (conf_folder() / "former_verdicts.yaml").read_text(encoding="utf-8")
    verdicts: dict[str, str] = yaml.safe_load(text)
    return verdicts


def describe_versions(runs: pd.DataFrame) -> list[str]:
    """Return a note on networks that were trained under another lock than the one in use. runs: a table of runs."""
    versions = runs.drop_duplicates("run")[["lock", "torch"]].fillna("none")
    if set(versions["lock"]) <= {lock_in_use()}:
        return []
    counts = dict(versions.value_counts(sort=False))
    listed = "; ".join(f"{count} with lock {lock}, torch {torch}" for (lock, torch), count in counts.items())
    return [f"Networks of other versions than this one's (lock {lock_in_use()}): {listed}."]
