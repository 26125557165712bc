"""One page with all results, results/report.html: the answer first, then every figure with its claim and runs.

Made from the output of the scripts in reproduce/ (figures/, tables/, verdicts/ in a results folder) and
conf/deviations.yaml; nothing is trained, drawn or judged here.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup

from equisep.analysis.claims import Claim, load_claims, name_value, no_claim
from equisep.analysis.pages import write_page
from equisep.analysis.pictures import inline_svg, png_uri, thumbnail_uri
from equisep.analysis.table_files import TEXT_COLUMNS
from equisep.analysis.verdicts import CONTRADICTED, NO_CLAIM, NOT_TESTED, PARTLY, REPRODUCED, STATUSES, UNDECIDED
from equisep.config import PAPER, ConfigError, conf_folder, group_options
from equisep.plots import CONVENTIONS, IN_WORDS
from equisep.store import machine_facts

HARDWARE = {
    "processor": "processor",
    "engine": "engine",
    "torch": "torch",
    "commit": "commit of the runs",
    "lock": "lock",
}
GLYPHS = {REPRODUCED: "●", PARTLY: "◐", CONTRADICTED: "○", UNDECIDED: "?", NOT_TESTED: "–", NO_CLAIM: "–"}
# Those that the report can switch between.
SWITCHED = ("paper", "evaluation")


@dataclass(frozen=True)
class Section:
    """A claim and its results.

    name: of the script. verdicts: by convention, each with its status, counts, statistics and findings, a row per
    condition and statistic. former: the verdict by earlier rules, or ''. shows: what the figure's panels show. notes:
    for the reader. figure: SVG of the figure, or ''; image: a PNG of it as a data URI where there is no SVG; thumbnail:
    a small one. runs: ids with the folder of each relative to the page, or '' if it does not exist. facts: hardware,
    versions, commit, networks, seeds. table: path of the table relative to the page, or ''. command: the script that
    judges the claim, or ''; training: the sweep that trains its networks, or ''. names: what each run is.
    one_convention: whether its networks are the same under every convention of measuring, or are judged under all
    together.
    """

    name: str
    claim: Claim
    verdicts: dict[str, dict[str, Any]]
    former: str
    shows: str
    notes: tuple[str, ...]
    figure: Markup
    image: str
    thumbnail: str
    runs: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    table: str
    command: str
    training: str
    names: dict[str, str]
    one_convention: bool

    @property
    def number(self) -> str:
        """The number of the paper's claim, or ''."""
        match = re.search(r"\bclaim (\d)", self.claim.text)
        return match.group(1) if match and f"on claim {match.group(1)}" not in self.claim.text else ""

    @property
    def lacks(self) -> list[str]:
        """The conventions that can be switched to and that this claim was not judged under, though others were."""
        judged = set(self.verdicts) & set(SWITCHED)
        return [name for name in SWITCHED if judged and name not in judged]

    def labelled_notes(self) -> list[tuple[str, str]]:
        """Return the notes, each with the convention that it is about, or ''."""
        labelled = []
        for note in self.notes:
            convention, colon, text = note.partition(": ")
            if colon and convention in SWITCHED and not self.one_convention:
                labelled.append((convention if not self.lacks else "", f"{CONVENTIONS[convention].label}: {text}"))
            else:
                labelled.append(("", note))
        return labelled

    def cells(self) -> list[tuple[str, str, int]]:
        """Return convention, verdict and columns of each cell of the answer: one where all conventions are the same."""
        if self.one_convention:
            return [("", next(iter(self.verdicts.values()))["verdict"], len(SWITCHED))]
        untested = {"verdict": NOT_TESTED}
        return [(name, self.verdicts.get(name, untested)["verdict"], 1) for name in SWITCHED]


def write_report(results: Path, scripts: Mapping[str, str]) -> Path:
    """Write RESULTS/report.html from the contents of a results folder, and return its path.

    scripts: the command that judges each claim, by name, in the order of the page; '' for a claim without a script.
    Raises ConfigError if there is nothing to report, or the page cannot be written.
    """
    claims = load_claims()
    if results.is_file():
        raise ConfigError(f"results={results}: is a file; choose a folder")
    sections = [
        _read_section(results, name, claims.get(name, no_claim(name)), command) for name, command in scripts.items()
    ]
    # In the paper's order.
    sections = sorted(sections, key=lambda section: section.number or "99")
    statuses = [verdict["verdict"] for section in sections for verdict in section.verdicts.values()]
    if set(statuses) == {NOT_TESTED} and not any(section.image or section.figure for section in sections):
        raise ConfigError(
            f"results={results}: contains no verdicts; run equisep reproduce first, or draw saved tables with "
            f"equisep figure all tables=results/reference results={results}"
        )
    return write_page(
        results / "report.html",
        "report.html.j2",
        sections=sections,
        counts=_count_by_convention(sections),
        glyphs=GLYPHS,
        switched={name: CONVENTIONS[name] for name in SWITCHED},
        in_words=IN_WORDS,
        names={run: name for section in reversed(sections) for run, name in section.names.items()},
        networks=len({run for section in sections for run, _ in section.runs}),
        deviations=load_deviations(),
        machine=machine_facts(),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _count_by_convention(sections: list[Section]) -> dict[str, dict[str, int]]:
    """Return how many claims have each verdict, by convention; those without conventions of their own count in both."""
    counts = {name: dict.fromkeys(STATUSES, 0) for name in SWITCHED}
    for section in sections:
        for name, verdict, _ in section.cells():
            for convention in SWITCHED if not name else (name,):
                counts[convention][verdict if verdict in STATUSES else NOT_TESTED] += 1
    return counts


def _read_section(results: Path, name: str, claim: Claim, command: str) -> Section:
    record, table = _read_record(results, name), _read_table(results, name)
    no_verdict = "no runs were judged" if command else "no script measures it yet"
    picture = results / "figures" / f"{name}.png"
    label = f"{name}: {claim.text}"
    # Tables over all runs have their names from the others.
    varied = name in group_options()["experiment"]
    # Escaped as it is read.
    figure = Markup(inline_svg(picture.with_suffix(".svg"), label)) if record else Markup("")
    return Section(
        name=name,
        claim=claim,
        verdicts=record.get("verdicts")
        or {PAPER: {"verdict": NOT_TESTED, "counts": "", "statistics": no_verdict, "findings": []}},
        former=record.get("former") or "",
        shows=record.get("shows") or "",
        notes=(*filter(None, [record.get("scope", "")]), *record.get("notes", ()), *record.get("descriptions", ())),
        figure=figure,
        image=png_uri(picture) if record and not figure else "",
        thumbnail=thumbnail_uri(picture) if record else "",
        runs=tuple((run, _link(results, f"runs/{run}")) for run in dict.fromkeys(table["run"])),
        facts=_describe(table),
        table=_link(results, f"tables/{name}.csv"),
        command=command,
        training=f"equisep -m experiment={name}" if varied else "",
        names=_name_runs(table) if varied else {},
        one_convention=bool(record) and not set(record["verdicts"]) & set(SWITCHED),
    )


def _read_record(results: Path, name: str) -> dict[str, Any]:
    path = results / "verdicts" / f"{name}.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        keys = {"condition", "statistic", "threshold", "outcome", "mean", "low", "high", "n"}
        for verdict in record["verdicts"].values():
            named = {"verdict", "counts", "statistics"} <= set(verdict)
            known = named and verdict["verdict"] in GLYPHS
            if not known or not all(keys <= set(row) for row in verdict["findings"]):
                raise ValueError
            values = (row[key] for row in verdict["findings"] for key in ("mean", "low", "high"))
            if not all(value is None or isinstance(value, int | float) for value in values):
                raise ValueError
        notes = (*record["notes"], *record.get("descriptions", ()))
        if not all(isinstance(note, str) for note in notes):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise _unreadable(path) from None
    return record


def _read_table(results: Path, name: str) -> pd.DataFrame:
    path = results / "tables" / f"{name}.csv"
    if not path.exists():
        return pd.DataFrame(columns=["run"])
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except (OSError, ValueError):
        table = pd.DataFrame()
    if "run" not in table:
        raise _unreadable(path)
    return table


def _name_runs(table: pd.DataFrame) -> dict[str, str]:
    """Return what each run of an experiment's table is, such as "depth 8, Adam, rate 1e-3, seed 666"."""
    # What an experiment varies stands before the run.
    columns = [*table.columns[: table.columns.get_loc("run")], "learning_rate", "seed"]
    if not set(columns) <= set(table):
        return {}
    names = {}
    for row in table.drop_duplicates("run")[["run", *dict.fromkeys(columns)]].to_dict("records"):
        told = (name_value(str(key), value) for key, value in row.items() if key != "run" and pd.notna(value))
        names[row["run"]] = ", ".join(told)
    return names


def _unreadable(path: Path) -> ConfigError:
    return ConfigError(f"{path} cannot be read: remove it and run `equisep figure {path.stem}` to write it again")


def _link(results: Path, path: str) -> str:
    return path if (results / path).exists() else ""


def _describe(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Return the number of networks and the seeds, hardware, versions and training time in a table."""
    if table.empty:
        return ()
    facts = [("networks", str(table["run"].nunique()))]
    if "seed" in table:
        facts.append(("seeds", ", ".join(str(seed) for seed in sorted(set(table["seed"])))))
    for column, label in HARDWARE.items():
        if column in table:
            facts.append((label, ", ".join(sorted(set(table[column].dropna().astype(str))))))
    if "seconds" in table:
        facts.append(("training", f"{table.drop_duplicates('run')['seconds'].sum() / 60:.1f} core minutes"))
    return tuple(facts)


@dataclass(frozen=True)
class Deviation:
    """A deviation from the paper or its released code, or an open question if ``open``. here: in this package."""

    what: str
    published: str
    here: str
    open: bool = False


def load_deviations() -> list[Deviation]:
    """Return the rows of conf/deviations.yaml."""
    rows = yaml.safe_load((conf_folder() / "deviations.yaml").read_text())
    return [Deviation(**row) for row in rows]
