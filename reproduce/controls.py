"""The law's statistics of networks that should not follow it, beside the trained one, and what chance alone gives.

python -m equisep -m experiment=controls && python reproduce/controls.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("controls", sys.argv[1:]))
