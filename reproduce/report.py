"""All results on one page, results/report.html: what the other scripts wrote, and the figures over all runs anew.

python -m reproduce.report
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from equisep.claims import load_claims
from equisep.report import write_report
from equisep.runs import all_runs, machine_facts
from equisep.schema import ConfigError, compose_config

README = Path(__file__).parents[1] / "README.md"
OVERVIEWS = ("decay_ratio", "test_accuracy")


def main(arguments: Sequence[str]) -> int:
    """Run the command line: ``results=FOLDER``; exit code 2 where the arguments are wrong or nothing is there."""
    try:
        strange = [word for word in arguments if not word.startswith("results=")]
        if strange:
            raise ConfigError(f"{strange[0]}: give results=FOLDER")
        results = Path(compose_config(list(arguments)).results)
        # Where there are no runs, what was made of those of another source stays.
        for name in OVERVIEWS if any(all_runs(results)) else ():
            importlib.import_module(f"reproduce.{name}").OVERVIEW.main([f"results={results}"])
        path = write_report(results, scripts(), deviations(), machine_facts(torch.device("cpu")))
    except ConfigError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"report: written: {path}")
    return 0


def scripts() -> dict[str, str]:
    """Return the command of each claim's script, the figures over all runs first; '' where there is none yet."""
    names = [*OVERVIEWS, *(name for name in load_claims() if name not in OVERVIEWS)]
    there = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return {name: f"python reproduce/{name}.py" if name in there else "" for name in names}


def deviations() -> str:
    """Return the table of deviations, which stands in the README."""
    return README.read_text().partition("## Deviations and open questions")[2].partition("\n## ")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
