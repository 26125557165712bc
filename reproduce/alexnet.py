"""Log D against layer of AlexNet on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=alexnet && python reproduce/alexnet.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("alexnet", sys.argv[1:]))
