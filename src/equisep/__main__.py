"""``python -m equisep``: the command equisep; see :mod:`equisep.commands.main`."""

import sys

from equisep.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
