"""``python -m reproduce PROFILE``: the same as ``equisep reproduce PROFILE``."""

import sys

from equisep.commands.main import main

sys.exit(main(["reproduce", *sys.argv[1:]]))
