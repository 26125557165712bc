"""The decay ratio of all runs against depth, width, learning rate, optimizer, data set and epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.all_runs import best_rates, comparable, exponential_against_rivals
from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import draw_against, legend_above, look_of, say_not_run, title
from equisep.analysis.overview import Overview
from equisep.plots import DATASETS, PAGE_WIDTH, Look, depth_look, new_figure, use_log_scale

# The settings of the paper's figures, which stay fixed while another one varies.
DATASET, OPTIMIZER, DEPTH, WIDTH = "fashion_mnist 10×10", "adam", 8, 100
DEPTHS = (4, 8, 20)
# Depths with runs at many learning rates, and their optimizer.
RATE_DEPTHS = {4: "adam", 8: "adam", 9: "sgd", 20: "adam"}
OPTIMIZERS = ("sgd", "momentum", "adam")
MIN_RATES = 3


def dataset_look(name: str) -> Look:
    """Return the look of a data set by its name and size."""
    return DATASETS.get(name.partition(" ")[0], Look(name, "0.4", "o"))


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the figure: a row for each convention with the decay ratio against each setting."""
    figure = new_figure(PAGE_WIDTH, 12 + 48 * len(tables))
    panels = figure.subplots(len(tables), 5, sharey=True, squeeze=False)
    shown: dict[str, Look] = {}
    seeds: set[int] = set()
    for row, (convention, table) in enumerate(tables.items()):
        joint = comparable(table)
        joint = joint[joint["training"] == "joint"]
        last = joint[joint["last"].astype(bool)].astype({"depth": int})
        best = best_rates(last)
        small = best[
            best["dataset"].str.contains("10×10") & (best["optimizer"] == OPTIMIZER) & (best["width"] == WIDTH)
        ]
        here = last[(last["dataset"] == DATASET) & (last["width"] == WIDTH)]
        rates = here[here["optimizer"] == here["depth"].map(RATE_DEPTHS)]
        enough = rates.groupby(["optimizer", "depth"])["learning_rate"].transform("nunique") >= MIN_RATES
        epochs = joint[joint["run"].isin(best.loc[best["optimizer"] == OPTIMIZER, "run"])].astype({"depth": int})
        epochs = epochs[(epochs["dataset"] == DATASET) & (epochs["width"] == WIDTH) & epochs["depth"].isin(DEPTHS)]
        wide = best[(best["dataset"] == DATASET) & (best["optimizer"] == OPTIMIZER) & (best["depth"] == DEPTH)]
        fixed = best[(best["dataset"] == DATASET) & (best["width"] == WIDTH) & best["depth"].isin(DEPTHS)]
        kinds = fixed[fixed["optimizer"].isin(OPTIMIZERS)]
        kinds = kinds.assign(place=[OPTIMIZERS.index(name) for name in kinds["optimizer"]])
        several = epochs.groupby("run")["epoch"].transform("nunique") > 2
        seeds |= _lines(panels[row, 0], small, "depth", "dataset", dataset_look)
        seeds |= _lines(panels[row, 1], rates[enough], "learning_rate", "depth", depth_look)
        seeds |= _lines(panels[row, 2], kinds, "place", "depth", depth_look, line="")
        seeds |= _lines(panels[row, 3], wide, "width", "depth", depth_look)
        seeds |= _lines(panels[row, 4], epochs[several], "epoch", "depth", depth_look)
        shown |= {name: dataset_look(name) for name in sorted(set(small["dataset"]))}
        for number, axes in enumerate(panels[row]):
            title(axes, 5 * row + number, look_of(convention).label, only=look_of(convention))
        panels[row, 0].set(ylabel="decay ratio ρ", xlabel="depth")
        use_log_scale(panels[row, 1], "x")
        panels[row, 1].set_xlabel("learning rate")
        panels[row, 2].set_xticks(range(len(OPTIMIZERS)), [name_value("", name) for name in OPTIMIZERS])
        panels[row, 2].set(xlabel="optimizer", xlim=(-0.5, len(OPTIMIZERS) - 0.5))
        use_log_scale(panels[row, 3], "x")
        panels[row, 3].set_xlabel("width")
        panels[row, 4].set_xscale("symlog", linthresh=10, linscale=0.5)
        panels[row, 4].set_xticks([0, 10, 100], ["0", "10", "100"])
        panels[row, 4].set(xlabel="epoch", xlim=(-1.5, 1.3 * max(epochs["epoch"], default=100)))
    depths = [depth_look(depth) for depth in RATE_DEPTHS]
    panels[0, 0].set_ylim(0, None)
    # Not in a panel, which a page may hide.
    legend_above(figure, [*depths, *dict.fromkeys(shown.values())], seeds)
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str, look: Callable[[Any], Look], line: str = "-") -> set[int]:
    """Draw means over seeds with their intervals against a column, a line for each value of another; return each n."""
    if rows.empty:
        say_not_run(axes)
    for value, group in rows.groupby(hue):
        draw_against(axes, group, x, "decay_ratio", look(value), line=line)
    return set(rows.groupby([x, hue])["seed"].nunique())


SHOWS = (
    "The decay ratio ρ at the last epoch, at the best learning rate of each setting where the rate is not what "
    "varies; means over seeds with 95 % intervals by Student's t; dots: networks. From left to right: depth (Adam, "
    "width 100), learning rate (depth 9: SGD, others Adam), optimizer, width (depth 8), epoch (Adam); but for the "
    "first panel on Fashion-MNIST."
)
CAVEAT = (
    "Best of three: exponential, power law and no law. The shares depend on the depths and learning rates of the "
    "networks at hand."
)
OVERVIEW = Overview("decay_ratio", draw, SHOWS, exponential_against_rivals, CAVEAT)
