"""Write results/report.html: the output of the other scripts on one page, with updated figures over all runs."""

from pathlib import Path

from equisep.analysis.claims import load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS, REPRODUCTIONS, all_reproductions
from equisep.analysis.report import write_report
from equisep.store import all_runs


def write(results: Path) -> Path:
    """Write the report of a results folder, with the figures over all runs drawn anew; return its path."""
    # Without runs, figures from another source are kept.
    for overview in OVERVIEWS.values() if any(all_runs(results)) else ():
        overview.main([f"results={results}"])
    return write_report(results, scripts())


def scripts() -> dict[str, str]:
    """Return the command of each claim's script, in the order of the claims; '' for a claim without a script."""
    drawn = {**OVERVIEWS, **all_reproductions()}
    names = dict.fromkeys([*load_claims(), *OVERVIEWS, *(name for name in drawn if name not in REPRODUCTIONS)])
    return {name: f"equisep figure {name}" if name in drawn else "" for name in names}
