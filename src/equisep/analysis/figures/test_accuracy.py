"""Test accuracy of all runs against D of the last layer, r and CV of log ρ; joint against two-stage training."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import LogLocator, MaxNLocator

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import say_not_run
from equisep.analysis.overview import Overview, best_rates, comparable, correlations_with_test_accuracy
from equisep.analysis.reproduction import FITTED

AGAINST = {"D_last": "D of the last layer", "r": "r", "log_ratio_cv": "CV of log ρ"}


def draw(figure: FigureBase, table: pd.DataFrame) -> None:
    """Draw the figure: three scatter plots of the networks that fit their data, and joint against two-stage."""
    plain = comparable(table)
    plain = plain.assign(dataset=[name_value("", name) for name in plain["dataset"]])
    last = plain[plain["last"]]
    fitted = last[last["train_accuracy"] >= FITTED]
    median = fitted.groupby("dataset")["test_accuracy"].transform("median")
    points = fitted.assign(difference=fitted["test_accuracy"] - median)
    order = sorted(set(last["dataset"]))
    looks: dict[str, Any] = {"hue": "dataset", "hue_order": order, "palette": "colorblind"}
    marks: dict[str, Any] = {"style": "dataset", "style_order": order, "s": 12, "linewidth": 0, "alpha": 0.7}
    panels = list(figure.subplots(2, 2).flat)
    for axes, (column, label) in zip(panels, AGAINST.items(), strict=False):
        if points.empty:
            say_not_run(axes)
            continue
        legend = "brief" if column == "D_last" else False
        sns.scatterplot(points, x=column, y="difference", legend=legend, ax=axes, **looks, **marks)
        axes.set(xlabel=label, ylabel="" if column == "r" else "test accuracy − median")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if column == "D_last":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    _compare_training(panels[3], best_rates(last), looks)
    _move_legend(figure, panels[0])


def _move_legend(figure: FigureBase, axes: Axes) -> None:
    """Move the legend of a panel below all panels."""
    legend = axes.get_legend()
    if legend is None:
        return
    names = [text.get_text() for text in legend.get_texts()]
    handles = [handle for handle in legend.legend_handles if handle is not None]
    figure.legend(handles, names, loc="outside lower center", ncol=len(names), frameon=False)
    legend.remove()


def _compare_training(axes: Axes, rows: pd.DataFrame, looks: dict[str, Any]) -> None:
    """Draw the test accuracy of joint and two-stage training, each at its best learning rate, a line per seed."""
    both = rows[rows.groupby(["dataset", "depth", "width", "optimizer"])["training"].transform("nunique") == 2]
    if both.empty:
        say_not_run(axes)
        return
    line: dict[str, Any] = {"marker": "o", "linewidth": 0.8, "markersize": 4, "legend": False}
    sns.lineplot(both, x="training", y="test_accuracy", units="seed", estimator=None, ax=axes, **looks, **line)
    axes.set(xlabel="", ylabel="test accuracy", xlim=(-0.3, 1.3))


CAVEAT = (
    "Networks of all depths, widths, optimizers and learning rates, which also affect test accuracy; "
    "shown is the difference from the median test accuracy of the data set."
)

OVERVIEW = Overview("test_accuracy", draw, 5.8, correlations_with_test_accuracy, CAVEAT)
