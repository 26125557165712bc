"""One page with all results: every figure with its claim, verdict, intervals and runs; results/report.html.

A view of what the scripts in reproduce/ wrote below a results folder (figures/, tables/, verdicts/) and of
conf/deviations.yaml; nothing is trained, drawn or judged here.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from equisep.analysis.claims import NOT_RUN, NOT_SUPPORTED, SUPPORTED, Claim, load_claims
from equisep.analysis.tables import TEXT_COLUMNS
from equisep.config import ConfigError, conf_folder
from equisep.files import write_atomically
from equisep.store import machine_facts

HARDWARE = {"processor": "processor", "torch": "torch", "commit": "commit of the runs"}


@dataclass(frozen=True)
class Section:
    """A claim and what is known of it here.

    name: the script's. verdict: supported, not supported or not run. findings: a row per condition and statistic.
    notes: what a reader must know. image: the figure as a data URI, or ''. runs: ids, and the folder of each relative
    to the page where it is there, else ''. facts: hardware, versions, commit, networks, seeds. table: the path of the
    table relative to the page, or ''.
    """

    name: str
    claim: Claim
    verdict: str
    statistics: str
    findings: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    image: str
    runs: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    table: str
    command: str


def write_report(results: Path, scripts: Mapping[str, str]) -> Path:
    """Write RESULTS/report.html from what is below a results folder, and return its path.

    scripts: the command that judges each claim, by its name, in the order of the page; '' for one that nothing judges
    yet. Raises ConfigError where there is nothing to report.
    """
    claims = load_claims()
    sections = [_read_section(results, name, claims[name], command) for name, command in scripts.items()]
    if all(section.verdict == NOT_RUN and not section.image for section in sections):
        raise ConfigError(f"results={results}: no verdicts below it; `make reproduce` makes some")
    loader = jinja2.PackageLoader("equisep", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.get_template("report.html.j2").render(
        sections=sections,
        counts={word: sum(s.verdict == word for s in sections) for word in (SUPPORTED, NOT_SUPPORTED, NOT_RUN)},
        deviations=load_deviations(),
        machine=machine_facts(),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    path = results / "report.html"
    write_atomically(path, page.encode())
    return path


def _read_section(results: Path, name: str, claim: Claim, command: str) -> Section:
    record, table = _read_record(results, name), _read_table(results, name)
    unmade = "nothing was trained or judged here" if command else "nothing measures it yet"
    figure = results / "figures" / f"{name}.png"
    image = base64.b64encode(figure.read_bytes()).decode() if figure.exists() and record else ""
    return Section(
        name=name,
        claim=claim,
        verdict=record.get("verdict", NOT_RUN),
        statistics=record.get("statistics", unmade),
        findings=tuple(record.get("findings", ())),
        notes=tuple(record.get("notes", ())),
        image=f"data:image/png;base64,{image}" if image else "",
        runs=tuple((run, _place(results, f"runs/{run}")) for run in dict.fromkeys(table["run"])),
        facts=_describe(table),
        table=_place(results, f"tables/{name}.csv"),
        command=command,
    )


def _read_record(results: Path, name: str) -> dict[str, Any]:
    path = results / "verdicts" / f"{name}.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        whole = {"verdict", "statistics"} <= set(content)
        for finding in content["findings"]:
            whole = whole and {"condition", "statistic", "wanted", "holds", "mean", "low", "high", "n"} <= set(finding)
        if not whole or not all(isinstance(note, str) for note in content["notes"]):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _unreadable(path) from None
    return content


def _read_table(results: Path, name: str) -> pd.DataFrame:
    path = results / "tables" / f"{name}.csv"
    if not path.exists():
        return pd.DataFrame(columns=["run"])
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except ValueError:
        table = pd.DataFrame()
    if "run" not in table:
        raise _unreadable(path)
    return table


def _unreadable(path: Path) -> ConfigError:
    return ConfigError(f"{path} cannot be read: remove it, and `python reproduce/{path.stem}.py` writes it again")


def _place(results: Path, path: str) -> str:
    return path if (results / path).exists() else ""


def _describe(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Return what a table tells of where its runs were made, and how many there are."""
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
    """A deviation from the paper or its released code, or an open question. what: the subject; here: this package's."""

    what: str
    published: str
    here: str


def load_deviations() -> list[Deviation]:
    """Return the rows of conf/deviations.yaml."""
    rows = yaml.safe_load((conf_folder() / "deviations.yaml").read_text())
    return [Deviation(**row) for row in rows]
