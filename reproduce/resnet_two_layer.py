"""Log D against block and against layer of a residual network of two-layer blocks, at the best learning rate.

python -m equisep -m experiment=resnet_two_layer && python reproduce/resnet_two_layer.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("resnet_two_layer", sys.argv[1:]))
