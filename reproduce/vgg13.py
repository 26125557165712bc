"""Log D against layer of VGG13 on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=vgg13 && python reproduce/vgg13.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("vgg13", sys.argv[1:]))
