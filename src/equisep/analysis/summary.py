"""The tables of the README that are made of data: the reference results with their verdicts, and the deviations.

Sources: results/reference/NAME/NAME.json (verdicts), results/reference/findings.yaml (what was found, in words) and
conf/deviations.yaml.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from equisep.analysis.claims import NOT_RUN
from equisep.analysis.report import load_deviations


@dataclass(frozen=True)
class ReferenceResult:
    """What the reference results of an experiment show.

    claim: the paper's, in short. finding: what was found, in words. networks: how many. verdict: of the claim.
    """

    claim: str
    finding: str
    networks: int
    verdict: str


def load_reference_results(reference: Path) -> dict[str, ReferenceResult]:
    """Return the reference results of a folder by experiment."""
    results = {}
    for name, entry in yaml.safe_load((reference / "findings.yaml").read_text()).items():
        record = reference / name / f"{name}.json"
        verdict = json.loads(record.read_text())["verdict"] if record.exists() else NOT_RUN
        results[name] = ReferenceResult(**entry, verdict=verdict)
    return results


def verdict_table(reference: Path, link: str) -> str:
    """Return the reference results as a table in markdown. link: of the folder, from the page that has the table."""
    rows = ["| experiment | the paper's claim | here | networks |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {result.claim} | [{result.verdict}]({link}/{name}): {result.finding} | {result.networks} |"
        for name, result in load_reference_results(reference).items()
    ]
    return "\n".join(rows)


def deviation_table() -> str:
    """Return the deviations from the paper and its released code as a table in markdown."""
    rows = ["| what | the paper, the released code | here |", "|---|---|---|"]
    rows += [f"| {row.what} | {row.published} | {row.here} |" for row in load_deviations()]
    return "\n".join(rows)


def with_tables(page: str, tables: dict[str, str]) -> str:
    """Return a page of markdown with its tables made anew.

    tables: by name; the table of a name stands between the lines ``<!-- name -->`` and ``<!-- end of name -->``.
    """
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the page has no place for the table {name!r}: {start.strip()} … {end.strip()}")
        page = before + start + table + end + after
    return page
