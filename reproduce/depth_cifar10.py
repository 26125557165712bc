"""The last layer's D against depth on CIFAR-10 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_cifar10 && python reproduce/depth_cifar10.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("depth_cifar10", sys.argv[1:]))
