"""Log D against layer with five large and five small classes, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=imbalance && python reproduce/imbalance.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("imbalance", sys.argv[1:]))
