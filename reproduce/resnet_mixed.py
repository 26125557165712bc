"""Log D against layer and block of a residual network of two kinds of blocks: a law for each half.

python -m equisep -m experiment=resnet_mixed && python reproduce/resnet_mixed.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("resnet_mixed", sys.argv[1:]))
