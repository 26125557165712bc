"""Figure 1 of the paper: log D against layer for depth 4, 8, 20 under SGD, momentum and Adam.

python -m equisep -m experiment=optimizers && python reproduce/optimizers.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("optimizers", sys.argv[1:]))
