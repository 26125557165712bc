"""Log D against block and against layer of a densely connected network, at the best learning rate.

python -m equisep -m experiment=densenet && python reproduce/densenet.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("densenet", sys.argv[1:]))
