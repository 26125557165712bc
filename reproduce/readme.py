"""Update the generated tables of the README: verdicts and deviations.

python -m reproduce.readme
"""

from pathlib import Path

from equisep.analysis.summary import deviation_table, verdict_table, with_tables

ROOT = Path(__file__).parents[1]


def updated(page: str) -> str:
    """Return the README with current tables."""
    verdicts = verdict_table(ROOT / "results/reference", "results/reference")
    return with_tables(page, {"verdicts": verdicts, "deviations": deviation_table()})


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
