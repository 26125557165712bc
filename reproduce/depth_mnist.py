"""The last layer's D against depth on MNIST 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_mnist && python reproduce/depth_mnist.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("depth_mnist", sys.argv[1:]))
