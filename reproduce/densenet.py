"""Log D against block and against layer of a densely connected network, at the best learning rate.

python -m equisep -m experiment=densenet && python reproduce/densenet.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: a row per data set, per block beside per layer."""
    return law_grid(tables, rows, "view", "dataset")


def per_block(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose points are blocks: what the claim is about."""
    return rows[rows["view"] == "block"]


REPRODUCTION = Reproduction("densenet", draw, conditions=("dataset",), statistics=per_block)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
