"""Log D against layer on 32×32 images at width 1,000, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=original_size && python reproduce/original_size.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a row per data set, a column per depth."""
    return law_grid(tables, rows, "depth", "dataset")


PUBLISHED = {
    ("fashion_mnist_32x32", 4): 1e-4,
    ("fashion_mnist_32x32", 8): 1e-4,
    ("fashion_mnist_32x32", 20): 3e-5,
    ("cifar10_32x32", 4): 1e-4,
    ("cifar10_32x32", 8): 3e-4,
    ("cifar10_32x32", 20): 3e-5,
}
REPRODUCTION = Reproduction("original_size", draw, conditions=("dataset", "depth"), published=PUBLISHED)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
