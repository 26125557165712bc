"""Log D against layer at seven learning rates of SGD, depth 9.

python -m equisep -m experiment=learning_rate && python reproduce/learning_rate.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("learning_rate", sys.argv[1:]))
