"""What test accuracy goes with, over all runs: D of the last layer, r, inequality of ratios; joint or half by half."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import say_not_run, wide_figure
from equisep.analysis.overview import Overview, best_rates, comparable, correlations_with_test_accuracy
from equisep.analysis.reproduction import FITTED

AGAINST = {"D_last": "D of the last layer", "r": "r", "log_ratio_cv": "inequality of the ratios"}


def draw(table: pd.DataFrame) -> Figure:
    """Return the figure: three scatter plots of the networks that fit their data, and joint against half by half."""
    plain = comparable(table)
    last = plain[plain["last"]]
    fitted = last[last["train_accuracy"] >= FITTED]
    level = fitted.groupby("dataset")["test_accuracy"].transform("median")
    names = [name_value("", name) for name in fitted["dataset"]]
    points = fitted.assign(difference=fitted["test_accuracy"] - level, dataset=names)
    shown = sorted({name_value("", name) for name in last["dataset"]})
    figure = wide_figure(5.8)
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
            hue_order=shown,
            style="dataset",
            style_order=shown,
            palette="colorblind",
            s=12,
            linewidth=0,
            alpha=0.7,
            legend="brief" if column == "D_last" else False,
            ax=axes,
        )
        axes.set(xlabel=label, ylabel="test accuracy − median")
        if column == "D_last":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    _joint_and_half(figure.get_axes()[3], best_rates(last), shown)
    _name_the_data_sets(figure)
    return figure


def _name_the_data_sets(figure: Figure) -> None:
    """Move the legend of the first panel below all of them."""
    legend = figure.get_axes()[0].get_legend()
    if legend is None:
        return
    names = [text.get_text() for text in legend.get_texts()]
    handles = [handle for handle in legend.legend_handles if handle is not None]
    figure.legend(handles, names, loc="outside lower center", ncol=len(names), frameon=False)
    legend.remove()


def _joint_and_half(axes: Axes, rows: pd.DataFrame, shown: list[str]) -> None:
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
        hue_order=shown,
        legend=False,
        units="seed",
        estimator=None,
        marker="o",
        palette="colorblind",
        linewidth=0.8,
        markersize=4,
        ax=axes,
    )
    axes.set(xlabel="", ylabel="test accuracy", xlim=(-0.3, 1.3))


CAVEAT = (
    "Networks of all depths, widths, optimizers and rates together, which test accuracy goes with as well; "
    "of each, its accuracy less the median of its data set."
)

OVERVIEW = Overview("test_accuracy", draw, correlations_with_test_accuracy, CAVEAT)
