"""What the decay ratio goes with, over all runs: depth, width, learning rate, optimizer, data set, epoch.

python reproduce/decay_ratio.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("decay_ratio", sys.argv[1:]))
