"""Write results/report.html: the output of the other scripts on one page, with updated figures over all runs.

python -m reproduce.report
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from equisep.analysis.claims import load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS, REPRODUCTIONS
from equisep.analysis.report import write_report
from equisep.config import ConfigError, EquisepError, compose_config
from equisep.store import all_runs


def main(arguments: Sequence[str]) -> int:
    """Run the command line: ``results=FOLDER``; exit code 2 if the arguments are invalid or there are no results."""
    try:
        unknown = [word for word in arguments if not word.startswith("results=")]
        if unknown:
            raise ConfigError(f"{unknown[0]}: unknown argument; use results=FOLDER")
        results = Path(compose_config(list(arguments)).results)
        # Without runs, figures from another source are kept.
        for overview in OVERVIEWS.values() if any(all_runs(results)) else ():
            overview.main([f"results={results}"])
        path = write_report(results, scripts())
    except EquisepError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"report: written: {path}")
    return 0


def scripts() -> dict[str, str]:
    """Return the command of each claim's script, figures over all runs first; '' for a claim without a script."""
    names = [*OVERVIEWS, *(name for name in load_claims() if name not in OVERVIEWS)]
    return {name: f"python reproduce/{name}.py" if name in REPRODUCTIONS | OVERVIEWS else "" for name in names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
