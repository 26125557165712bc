"""Log D against layer at width 20, 100 and 1,000, at the best learning rate.

python -m equisep -m experiment=width && python reproduce/width.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a panel per width."""
    return law_grid(tables, rows, "width")


REPRODUCTION = Reproduction("width", draw, conditions=("width",))

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
