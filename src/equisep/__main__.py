"""``python -m equisep``: the command equisep; see :mod:`equisep.commands.main`."""

import sys

from equisep.commands.main import main as run_words
from equisep.process import prepare_process


def main() -> int:
    """Run the command line of this process and return its exit code."""
    prepare_process()
    return run_words()


if __name__ == "__main__":
    sys.exit(main())
