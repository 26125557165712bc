"""Log D against layer with five large and five small classes, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=imbalance && python reproduce/imbalance.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a panel per depth."""
    return law_grid(tables, rows, "depth")


REPRODUCTION = Reproduction("imbalance", draw, conditions=("depth",))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
