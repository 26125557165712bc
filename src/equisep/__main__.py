"""``python -m equisep``: the command equisep; see :mod:`equisep.commands.main`."""

import atexit
import gc
import sys

from equisep.commands.main import main as run_words


def main() -> int:
    """Run the command line of this process and return its exit code."""
    # torch and wandb create half a million objects that live as long as the process. Searching them for cyclic garbage
    # takes seconds, most of them when the process exits.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    return run_words()


if __name__ == "__main__":
    sys.exit(main())
