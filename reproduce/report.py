"""``python -m reproduce.report``: the same as ``equisep report``."""

import sys

from equisep.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
