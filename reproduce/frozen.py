"""Half by half against jointly trained: D per layer and test accuracy, CIFAR-10 10×10, depth 20.

python -m equisep -m experiment=frozen && python reproduce/frozen.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("frozen", sys.argv[1:]))
