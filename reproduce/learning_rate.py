"""Log D against layer at seven learning rates of SGD, depth 9.

python -m equisep -m experiment=learning_rate && python reproduce/learning_rate.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a panel per learning rate."""
    return law_grid(tables, rows, "learning_rate")


REPRODUCTION = Reproduction("learning_rate", draw, conditions=("learning_rate",))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
