"""The generated tables of docs/: reference results with their verdicts, and deviations from the paper.

Sources: results/reference/NAME/NAME.json (verdicts), results/reference/findings.yaml (prose), conf/deviations.yaml.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from equisep.analysis.claims import load_claims, name_value
from equisep.analysis.report import load_deviations
from equisep.analysis.verdicts import NOT_TESTED
from equisep.config import PAPER


@dataclass(frozen=True)
class ReferenceResult:
    """The reference result of an experiment.

    claim, finding: prose. networks: their number. verdict: of the rules of today or, as it says, the former ones.
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
        verdict = _verdict_of(json.loads(record.read_text())) if record.exists() else NOT_TESTED
        results[name] = ReferenceResult(**entry, verdict=verdict)
    return results


def _verdict_of(record: dict[str, Any]) -> str:
    """Return the words of a verdict's record; those of the former rules had one verdict."""
    return str(record["verdict"]) + ("" if "verdicts" in record else " (former rules)")


def verdict_table(reference: Path, link: str) -> str:
    """Return the reference results as a Markdown table. link: path of their folder relative to the page."""
    rows = ["| experiment | the paper's claim | here | networks |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {result.claim} | {_linked(result, name, link)}: {result.finding} | {result.networks} |"
        for name, result in load_reference_results(reference).items()
    ]
    return "\n".join(rows)


def _linked(result: ReferenceResult, name: str, link: str) -> str:
    return result.verdict if result.verdict == NOT_TESTED else f"[{result.verdict}]({link}/{name})"


def run_table(reference: Path) -> str:
    """Return what the reference results were made from, and what they cost, as a Markdown table."""
    rows = ["| folder | networks | seeds | core minutes | engine | torch | processor | lock | date |", "|" + "---|" * 9]
    for name in load_claims():
        path = reference / name / f"{name}.csv"
        if not path.exists():
            continue
        runs = pd.read_csv(path).drop_duplicates("run")
        seeds = sorted(set(runs["seed"]))
        several = f" ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f" ({seeds[0]})"
        facts = [_listed(runs, column) for column in ("engine", "torch", "processor", "lock")]
        dates = sorted(str(ended)[:10] for ended in runs["ended"].dropna()) if "ended" in runs else []
        when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
        cost = f"{runs['seconds'].sum() / 60:,.0f}" if "seconds" in runs else ""
        cells = [f"`{name}/`", str(len(runs)), f"{len(seeds)}{several}", cost, *facts, when]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _listed(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted(set(runs[column].dropna().astype(str)))) if column in runs else ""


def figure_1_table(reference: Path) -> str:
    """Return Figure 1's networks beside one run of the authors' code, as a Markdown table with a line that counts.

    Medians and ranges over seeds, D as published. The authors' values are in released.csv.
    """
    runs = pd.read_csv(reference / "optimizers/optimizers.csv")
    runs = runs[runs["convention"] == PAPER]
    released = pd.read_csv(reference / "released.csv")
    rows = [
        "| depth | optimizer | r, ours | released | decay ratio ρ | D of the last layer, ours | released "
        "| test accuracy, ours | released |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    compared: list[bool] = []
    digits = {"r": (4, 4), "decay_ratio": (3, 0), "D_last": (3, 3), "test_accuracy": (3, 4)}
    for theirs in released.to_dict("records"):
        ours = runs[(runs["depth"] == theirs["depth"]) & (runs["optimizer"] == theirs["optimizer"])]
        cells = [str(theirs["depth"]), name_value("optimizer", theirs["optimizer"])]
        for column, (places, theirs_places) in digits.items():
            low, middle, high = (float(ours[column].quantile(share)) for share in (0, 0.5, 1))
            cells.append(f"{middle:.{places}f} [{low:.{places}f}, {high:.{places}f}]")
            if column in theirs:
                cells.append(f"{theirs[column]:.{theirs_places}f}")
                compared.append(low <= theirs[column] <= high)
        rows.append(f"| {' | '.join(cells)} |".replace("-", "−"))
    seeds, count = runs["seed"].nunique(), len(compared)
    remarks = (
        f"Lowest training accuracy of the {len(runs)} networks: {runs['train_accuracy'].min():.4f}.",
        f"{compared.count(False)} of the {count} released values lie outside the range of our {seeds} seeds; of a",
        f"further seed of ours {2 * count / (seeds + 1):.0f} would, on average.",
    )
    return "\n".join([*rows, "", *remarks])


def deviation_table(*, open: bool) -> str:
    """Return the deviations from the paper and its released code, or the open questions, as a Markdown table."""
    rows = ["| what | the paper, the released code | here |", "|---|---|---|"]
    rows += [f"| {row.what} | {row.published} | {row.here} |" for row in load_deviations() if row.open == open]
    return "\n".join(rows)


def with_tables(page: str, tables: dict[str, str]) -> str:
    """Return a Markdown page with its tables replaced.

    tables: by name; each replaces the text between the lines ``<!-- name -->`` and ``<!-- end of name -->``. Raises
    ValueError if the page lacks them.
    """
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, marker, after = rest.partition(end)
        if not marker:
            raise ValueError(f"table {name!r}: the page lacks the lines {start.strip()} and {end.strip()}")
        page = before + start + table + end + after
    return page
