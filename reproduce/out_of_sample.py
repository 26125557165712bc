"""Test accuracy at equal training loss: trained jointly against half by half, CIFAR-10 and Fashion-MNIST 10×10.

python -m equisep -m experiment=out_of_sample && python reproduce/out_of_sample.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("out_of_sample", sys.argv[1:]))
