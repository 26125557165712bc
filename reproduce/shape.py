"""Log D against layer where layers are narrow then wide, wide then narrow, mixed, at the best learning rate.

python -m equisep -m experiment=shape && python reproduce/shape.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a panel per shape."""
    return law_grid(tables, rows, "architecture")


REPRODUCTION = Reproduction("shape", draw, conditions=("architecture",))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
