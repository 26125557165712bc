"""The tables of the README that are made of data, written into it anew: verdicts and deviations.

python -m reproduce.readme
"""

import sys
from pathlib import Path

from equisep.analysis.summary import deviation_table, verdict_table, with_tables

ROOT = Path(__file__).parents[1]


def made_anew(page: str) -> str:
    """Return the README with its tables as the data have them."""
    reference = ROOT / "results/reference"
    return with_tables(
        page, {"verdicts": verdict_table(reference, "results/reference"), "deviations": deviation_table()}
    )


def main() -> int:
    """Write README.md anew; return the exit code."""
    path = ROOT / "README.md"
    path.write_text(made_anew(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
