"""What the decay ratio goes with, over all runs: depth, width, learning rate, optimizer, data set, epoch."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import place_legend, say_not_run, wide_figure
from equisep.analysis.overview import Overview, best_rates, comparable, exponential_against_rivals

# Of the paper's figures; where something else varies, these stay.
DATASET, OPTIMIZER, DEPTH, WIDTH = "fashion_mnist 10×10", "adam", 8, 100
DEPTHS = (4, 8, 20)
# Depths with runs at many rates, of Adam and (9) of SGD.
RATE_DEPTHS = (4, 8, 9)


def draw(table: pd.DataFrame) -> Figure:
    """Return the figure: six panels, each with the median over seeds and their range."""
    joint = comparable(table)
    joint = joint[joint["training"] == "joint"]
    last = joint[joint["last"]].assign(depth=lambda rows: rows["depth"].astype(int))
    best = best_rates(last)
    usual = {
        "dataset": best["dataset"] == DATASET,
        "optimizer": best["optimizer"] == OPTIMIZER,
        "width": best["width"] == WIDTH,
        "depth": best["depth"] == DEPTH,
    }
    every_epoch = joint[joint["run"].isin(best["run"])]
    rates = last[(last["dataset"] == DATASET) & (last["width"] == WIDTH) & last["depth"].isin(RATE_DEPTHS)]
    enough = rates.groupby(["optimizer", "depth"])["learning_rate"].transform("nunique") >= 3
    several = every_epoch.groupby("run")["epoch"].transform("nunique") > 2
    epochs = every_epoch[several & (every_epoch["dataset"] == DATASET) & (every_epoch["optimizer"] == OPTIMIZER)]
    networks = rates[enough].sort_values(["optimizer", "depth"])
    depths = best["depth"].isin(DEPTHS)
    shown_epochs = epochs[epochs["depth"].isin(DEPTHS)].assign(depth=lambda rows: rows["depth"].astype(int))
    figure = wide_figure(5.0)
    panels = figure.subplots(2, 3, sharey=True)
    small = best["dataset"].str.contains("10×10")
    _lines(panels[0, 0], best[usual["optimizer"] & usual["width"] & small], "depth", "dataset")
    _lines(panels[0, 1], best[usual["dataset"] & usual["optimizer"] & usual["depth"]], "width", log=True)
    _lines(panels[0, 2], networks.assign(network=_networks), "learning_rate", "network", log=True)
    _spread(panels[1, 0], best[usual["dataset"] & usual["width"] & depths], "optimizer")
    _spread(panels[1, 1], best[usual["optimizer"] & usual["width"] & depths & small], "dataset")
    _lines(panels[1, 2], shown_epochs, "epoch", "depth")
    panels[1, 2].set_xscale("symlog", linthresh=10)
    panels[1, 2].set_xlim(left=0)
    for axes in panels.flat:
        # Room for the legends above the values, which seldom pass 1.
        axes.set(ylabel="decay ratio ρ", ylim=(0, 1.75))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    return figure


def _networks(rows: pd.DataFrame) -> list[str]:
    return [
        f"{name_value('', name)}, depth {depth:g}" for name, depth in zip(rows["optimizer"], rows["depth"], strict=True)
    ]


def _lines(axes: Axes, rows: pd.DataFrame, x: str, hue: str | None = None, *, log: bool = False) -> None:
    """Draw medians against a number, joined, with the range over seeds as a band."""
    if rows.empty:
        say_not_run(axes)
        return
    told = rows.assign(dataset=[name_value("", name) for name in rows["dataset"]])
    looks = {"palette": "colorblind", "style": hue, "markers": True, "dashes": False} if hue else {"marker": "o"}
    sns.lineplot(told, x=x, y="decay_ratio", hue=hue, estimator="median", errorbar=("pi", 100), ax=axes, **looks)
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(x.replace("_", " "))
    if hue:
        place_legend(axes, title=hue if hue == "depth" else None)


def _spread(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw every network above the name of its kind."""
    if rows.empty:
        say_not_run(axes)
        return
    told = rows.assign(**{x: [name_value("", name.removesuffix(" 10×10")) for name in rows[x]]})
    sns.stripplot(told, x=x, y="decay_ratio", hue="depth", palette="colorblind", size=3, jitter=False, ax=axes)
    axes.set_xlabel("data set" if x == "dataset" else x)
    axes.tick_params("x", labelsize="x-small")
    place_legend(axes, title="depth")


OVERVIEW = Overview("decay_ratio", draw, exponential_against_rivals)
