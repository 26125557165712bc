"""``python -m reproduce.report``: the same as ``equisep report``."""

import sys

from equisep.commands.main import main

sys.exit(main(["report", *sys.argv[1:]]))
