"""What test accuracy goes with, over all runs: D of the last layer, r, inequality of ratios; joint or half by half.

python reproduce/test_accuracy.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("test_accuracy", sys.argv[1:]))
