"""``python -m reproduce PROFILE``: the same as ``equisep reproduce PROFILE``."""

import sys

from equisep.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
