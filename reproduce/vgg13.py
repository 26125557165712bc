"""Log D against layer of VGG13 on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=vgg13 && python reproduce/vgg13.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a panel per data set."""
    return law_grid(tables, rows, "dataset")


REPRODUCTION = Reproduction("vgg13", draw, conditions=("dataset",))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
