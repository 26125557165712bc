"""Figure 1 of the paper: log D against layer for depth 4, 8, 20 under SGD, momentum and Adam.

python -m equisep -m experiment=optimizers && python reproduce/optimizers.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a row per optimizer, a column per depth, all seeds in a panel."""
    return law_grid(tables, rows, "depth", "optimizer")


REPRODUCTION = Reproduction("optimizers", draw, conditions=("depth", "optimizer"))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
