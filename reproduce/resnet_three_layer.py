"""Log D against block and against layer of a residual network of three-layer blocks, at the best learning rate.

python -m equisep -m experiment=resnet_three_layer && python reproduce/resnet_three_layer.py
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from equisep.experiments import Tables
from equisep.figures import law_grid
from equisep.reproduction import Reproduction, compare_views


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: per block beside per layer."""
    return law_grid(tables, rows, "view")


REPRODUCTION = Reproduction("resnet_three_layer", draw, statistics=compare_views)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
