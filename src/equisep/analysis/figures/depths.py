"""D of the last layer, decay ratio and test accuracy against depth, at every learning rate and at the best."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.analysis.figures.panels import (
    NEUTRAL,
    Part,
    Parts,
    draw_against,
    drawn_parts,
    legend_above,
    mark,
    rate_looks,
    title,
)
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import rise_beyond_chosen_depth
from equisep.analysis.tables import Tables
from equisep.plots import PAGE_WIDTH, Look, draw_dots, new_figure, use_log_scale

SHOWS = (
    "D of the last layer at each learning rate (geometric mean over seeds; ringed: the rate with the lowest final "
    "training loss), decay ratio at the best rates, and test accuracy. Dots: networks; bars: 95 % intervals by "
    "Student's t over seeds."
)


def rise_beyond_best_depth(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed ``rise``: last-layer D of the deepest network over that of the network of the best depth, minus 1.

    The best depth is that of the other half of the seeds. NaN if one of a seed's networks diverged.
    """
    last = rows.set_index(["seed", "depth"])["D_last"].unstack()
    usable = last.dropna()
    rises = pd.Series(math.nan, index=last.index)
    if len(usable) > 1:
        rises[usable.index] = rise_beyond_chosen_depth(usable.to_numpy())
    return pd.DataFrame({"seed": last.index, "rise": rises.to_numpy()})


def draw(parts: Parts) -> Figure:
    """Draw D of the last layer under each convention, ρ under all, and test accuracy, against depth."""
    drawn, first = drawn_parts(parts), next(iter(parts.values()))
    looks = rate_looks(sorted(set(first.tables.runs["learning_rate"])))
    across = 2 if len(drawn) > 1 else 3
    down = math.ceil((len(drawn) + 2) / across)
    figure = new_figure(PAGE_WIDTH, 10 + 52 * down)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    *fuzziness, ratio, accuracy = panels[: len(drawn) + 2]
    for axes in fuzziness[1:]:
        axes.sharey(fuzziness[0])
    for axes, (look, part) in zip(fuzziness, drawn, strict=True):
        _draw_rates(axes, part, "D_last", looks, logarithmic=True)
        use_log_scale(axes)
        axes.set_ylabel("D of the last layer")
        draw_against(ratio, part.rows, "depth", "decay_ratio", look)
        title(axes, panels.index(axes), look.label, only=look)
    ratio.set_ylabel("decay ratio ρ")
    ratio.legend(handles=[mark(look) for look, _ in drawn], loc="lower right")
    title(ratio, len(drawn), "at the best rate of each depth")
    _draw_rates(accuracy, first, "test_accuracy", looks)
    accuracy.set_ylabel("test accuracy")
    title(accuracy, len(drawn) + 1, "accuracy in evaluation mode")
    for axes in panels[: len(drawn) + 2]:
        axes.set_xlabel("depth")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes in panels[len(drawn) + 2 :]:
        axes.set_axis_off()
    legend_above(figure, looks.values(), {first.rows["seed"].nunique()})
    return figure


def _draw_rates(axes: Axes, part: Part, column: str, looks: dict[float, Look], *, logarithmic: bool = False) -> None:
    """Draw a line per learning rate of means over seeds, with the best rate of each depth ringed, and its networks."""
    runs = part.tables.runs
    runs = runs[runs["convention"].isin(set(part.rows["convention"])) & runs[column].notna()]
    for rate, group in runs.groupby("learning_rate"):
        look = looks[float(str(rate))]
        values = np.log(group[column]) if logarithmic else group[column]
        means = values.groupby(group["depth"]).mean()
        axes.plot(means.index, np.exp(means) if logarithmic else means, color=look.colour, marker=look.marker, zorder=2)
    best = part.rows
    values = np.log(best[column]) if logarithmic else best[column]
    means = values.groupby(best["depth"]).mean()
    ringed = np.exp(means) if logarithmic else means
    axes.scatter(means.index, ringed, s=28, facecolors="none", edgecolors="black", linewidths=0.75, zorder=4)
    draw_dots(axes, best["depth"], best[column], NEUTRAL, best["run"].tolist())


def reproduction(name: str) -> Reproduction:
    """Return the reproduction of an experiment on depth."""
    return Reproduction(name, draw, SHOWS, ("depth",), rise_beyond_best_depth)
