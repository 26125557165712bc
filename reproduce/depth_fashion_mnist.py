"""The last layer's D against depth on Fashion-MNIST 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_fashion_mnist && python reproduce/depth_fashion_mnist.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("depth_fashion_mnist", sys.argv[1:]))
