"""The law through training: log D against layer at nine epochs, depth 8 and 20, Adam."""

import numpy as np
import pandas as pd
from matplotlib.figure import FigureBase

from equisep.analysis.experiments import every_snapshot
from equisep.analysis.figures.panels import PAIRS, draw_curves, label_law_axes, of_height
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the figure: a panel per epoch with both depths and the median of r over seeds."""
    epochs = sorted(set(rows["epoch"]))
    panels = figure.subplots(-(-len(epochs) // 3), 3, sharey=True, sharex=True, squeeze=False)
    panels[0, 0].set_yscale("log")
    colours = dict(zip(sorted(set(rows["depth"])), PAIRS, strict=False))
    for axes, epoch in zip(panels.flat, epochs, strict=False):
        medians = []
        for depth, pair in colours.items():
            selected = rows[(rows["epoch"] == epoch) & (rows["depth"] == depth)]
            correlations = draw_curves(axes, tables.curves(selected), pair)
            if correlations:
                medians.append(f"{np.median(correlations):.3f}".replace("-", "−"))
        axes.set_title(f"epoch {epoch}: r = {', '.join(medians) or 'not run'}", fontsize="small")
    for number, (depth, (colour, _)) in enumerate(colours.items()):
        panels[0, 0].annotate(f"depth {depth}", (0.04, 0.14 - 0.1 * number), xycoords="axes fraction", color=colour)
    label_law_axes(panels)


def compare_first_and_last(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics at the first and the last epoch, by depth and seed."""
    first, last = (rows[rows["epoch"] == epoch] for epoch in (rows["epoch"].min(), rows["epoch"].max()))
    both: pd.DataFrame = first.merge(last, on=["depth", "seed"], suffixes=("_first", "_last"))
    return both


REPRODUCTION = Reproduction("emergence", draw, of_height(7.2), ("depth",), compare_first_and_last, every_snapshot)
