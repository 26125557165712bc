"""Log D against layer without batch normalisation, depth 20, at the best rate and the published one.

python -m equisep -m experiment=no_batch_norm && python reproduce/no_batch_norm.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("no_batch_norm", sys.argv[1:]))
