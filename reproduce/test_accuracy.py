"""What test accuracy goes with, over all runs: D of the last layer, r, inequality of ratios; joint or half by half.

python reproduce/test_accuracy.py
"""

from __future__ import annotations

import sys

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from equisep.across import Overview, best_rates, comparable, correlations_with_test_accuracy
from equisep.claims import name_value
from equisep.figures import FULL_WIDTH, place_legend, say_not_run, use_style
from equisep.reproduction import FITTED

AGAINST = {"D_last": "D of the last layer", "r": "r", "ratio_inequality": "inequality of the ratios"}


def draw(table: pd.DataFrame) -> Figure:
    """Return the figure: three scatter plots of the networks that fit their data, and joint against half by half."""
    use_style()
    plain = comparable(table)
    last = plain[plain["last"]]
    fitted = last[last["train_accuracy"] >= FITTED]
    level = fitted.groupby("dataset")["test_accuracy"].transform("median")
    names = [name_value("", name) for name in fitted["dataset"]]
    points = fitted.assign(difference=fitted["test_accuracy"] - level, dataset=names)
    figure = Figure(figsize=(FULL_WIDTH, 5.0), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for axes, (column, label) in zip(panels, AGAINST.items(), strict=False):
        if points.empty:
            say_not_run(axes)
            continue
        sns.scatterplot(
            points,
            x=column,
            y="difference",
            hue="dataset",
            style="dataset",
            palette="colorblind",
            s=12,
            linewidth=0,
            alpha=0.7,
            legend="brief" if column == "ratio_inequality" else False,
            ax=axes,
        )
        axes.set(xlabel=label, ylabel="test accuracy less\nthe data set's median")
        if column == "D_last":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        if column == "ratio_inequality":
            place_legend(axes, "lower left")
    _joint_and_half(figure.get_axes()[3], best_rates(last))
    return figure


def _joint_and_half(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the test accuracies of both ways of training, each at its best learning rate, seed by seed."""
    both = rows[rows.groupby(["dataset", "depth", "width", "optimizer"])["training"].transform("nunique") == 2]
    if both.empty:
        say_not_run(axes)
        return
    both = both.assign(dataset=[name_value("", name) for name in both["dataset"]])
    sns.lineplot(
        both,
        x="training",
        y="test_accuracy",
        hue="dataset",
        units="seed",
        estimator=None,
        marker="o",
        palette="colorblind",
        linewidth=0.8,
        markersize=4,
        ax=axes,
    )
    axes.set(xlabel="", ylabel="test accuracy", xlim=(-0.3, 1.3))
    place_legend(axes, "upper right")


CAVEAT = "Networks of all depths, widths, optimizers and rates together, which test accuracy goes with as well."

OVERVIEW = Overview("test_accuracy", draw, correlations_with_test_accuracy, CAVEAT)

if __name__ == "__main__":
    sys.exit(OVERVIEW.main(sys.argv[1:]))
