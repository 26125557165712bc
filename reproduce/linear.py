"""Log D against layer of a linear network, depth 20, at the best rate and the published one: a negative result.

python -m equisep -m experiment=linear && python reproduce/linear.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("linear", sys.argv[1:]))
