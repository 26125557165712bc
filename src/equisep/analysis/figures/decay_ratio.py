"""The decay ratio of all runs against depth, width, learning rate, optimizer, data set and epoch."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import place_legend, say_not_run
from equisep.analysis.overview import Overview, best_rates, comparable, exponential_against_rivals

# The settings of the paper's figures, which stay fixed while another one varies.
DATASET, OPTIMIZER, DEPTH, WIDTH = "fashion_mnist 10×10", "adam", 8, 100
DEPTHS = (4, 8, 20)
# Depths with runs at many learning rates: 4 and 8 with Adam, 9 with SGD.
RATE_DEPTHS = (4, 8, 9)


def draw(figure: FigureBase, table: pd.DataFrame) -> None:
    """Draw the figure: six panels, each with the median over seeds and their range."""
    joint = comparable(table)
    joint = joint[joint["training"] == "joint"]
    last = joint[joint["last"]].astype({"depth": int})
    best = best_rates(last)
    small = best[best["dataset"].str.contains("10×10")]
    rates = last.query("dataset == @DATASET and width == @WIDTH and depth in @RATE_DEPTHS")
    enough = rates.groupby(["optimizer", "depth"])["learning_rate"].transform("nunique") >= 3
    rates = rates[enough].sort_values(["optimizer", "depth"])
    named = zip(rates["optimizer"], rates["depth"], strict=True)
    rates = rates.assign(network=[f"{name_value('', optimizer)}, depth {depth}" for optimizer, depth in named])
    epochs = joint[joint["run"].isin(best["run"])]
    epochs = epochs[epochs.groupby("run")["epoch"].transform("nunique") > 2].astype({"depth": int})
    panels = figure.subplots(2, 3, sharey=True)
    _lines(panels[0, 0], small.query("optimizer == @OPTIMIZER and width == @WIDTH"), "depth", "dataset")
    fixed = "dataset == @DATASET and optimizer == @OPTIMIZER"
    _lines(panels[0, 1], best.query(f"{fixed} and depth == @DEPTH"), "width", log=True)
    _lines(panels[0, 2], rates, "learning_rate", "network", log=True)
    _spread(panels[1, 0], best.query("dataset == @DATASET and width == @WIDTH and depth in @DEPTHS"), "optimizer")
    _spread(panels[1, 1], small.query("optimizer == @OPTIMIZER and width == @WIDTH and depth in @DEPTHS"), "dataset")
    _lines(panels[1, 2], epochs.query(f"{fixed} and depth in @DEPTHS"), "epoch", "depth")
    panels[1, 2].set_xscale("symlog", linthresh=10)
    panels[1, 2].set_xlim(left=0)
    for axes in panels.flat:
        # Values rarely exceed 1; the legends are above.
        axes.set(ylabel="decay ratio ρ", ylim=(0, 1.75))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str | None = None, *, log: bool = False) -> None:
    """Draw medians over seeds against a column as a line, with the range as a band."""
    if rows.empty:
        say_not_run(axes)
        return
    named = rows.assign(dataset=[name_value("", name) for name in rows["dataset"]])
    looks = {"palette": "colorblind", "style": hue, "markers": True, "dashes": False} if hue else {"marker": "o"}
    sns.lineplot(named, x=x, y="decay_ratio", hue=hue, estimator="median", errorbar=("pi", 100), ax=axes, **looks)
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(x.replace("_", " "))
    if hue:
        place_legend(axes, title=hue if hue == "depth" else None)


def _spread(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw a point per network above the name of its kind."""
    if rows.empty:
        say_not_run(axes)
        return
    named = rows.assign(**{x: [name_value("", name.removesuffix(" 10×10")) for name in rows[x]]})
    sns.stripplot(named, x=x, y="decay_ratio", hue="depth", palette="colorblind", size=3, jitter=False, ax=axes)
    axes.set_xlabel("data set" if x == "dataset" else x)
    axes.tick_params("x", labelsize="x-small")
    place_legend(axes, title="depth")


OVERVIEW = Overview("decay_ratio", draw, 5.0, exponential_against_rivals)
