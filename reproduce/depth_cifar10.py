"""The last layer's D against depth on CIFAR-10 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_cifar10 && python reproduce/depth_cifar10.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import depth_figure
from equisep.reproduction import Reproduction, rise_beyond_best_depth


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: D of the last layer, decay ratio and test accuracy against depth."""
    return depth_figure(rows)


REPRODUCTION = Reproduction("depth_cifar10", draw, conditions=("depth",), statistics=rise_beyond_best_depth)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
