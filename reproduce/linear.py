"""Log D against layer of a linear network, depth 20, at the best rate and the published one: a negative result.

python -m equisep -m experiment=linear && python reproduce/linear.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction

PUBLISHED_RATE = 3e-5


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: the best learning rate, then the published one where that is another."""
    published = tables.runs[tables.runs["learning_rate"] == PUBLISHED_RATE]
    shown = pd.concat([rows, published]).drop_duplicates()
    return law_grid(tables, shown, "learning_rate")


REPRODUCTION = Reproduction("linear", draw, published={(): PUBLISHED_RATE})

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
