"""Test accuracy of all runs against D of the last layer, r and CV of log ρ; joint against two-stage training."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.analysis.all_runs import best_rates, comparable, correlations_with_test_accuracy, remarks_on_correlations
from equisep.analysis.figures.decay_ratio import dataset_look
from equisep.analysis.figures.panels import FITTED, legend_above, look_of, say_not_run, title
from equisep.analysis.overview import Overview
from equisep.plots import PAGE_WIDTH, draw_dots, new_figure, use_log_scale

AGAINST = {"D_last": "D of the last layer", "r": "r", "log_ratio_cv": "CV of log ρ"}
MODES = ("joint", "two-stage")


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the figure: scatter plots of the networks that fit their data, and joint against two-stage training."""
    figure = new_figure(PAGE_WIDTH, 12 + 48 * len(tables))
    panels = figure.subplots(len(tables), 4, squeeze=False)
    names: set[str] = set()
    counts: set[int] = set()
    for row, (convention, table) in enumerate(tables.items()):
        last = comparable(table)
        last = last[last["last"].astype(bool)]
        fitted = last[last["train_accuracy"] >= FITTED]
        names |= set(last["dataset"])
        counts.add(fitted["run"].nunique())
        median = fitted.groupby("dataset")["test_accuracy"].transform("median")
        points = fitted.assign(difference=fitted["test_accuracy"] - median)
        for number, (column, label) in enumerate(AGAINST.items()):
            axes = panels[row, number]
            if points.empty:
                say_not_run(axes)
            # The data set with the fewest networks last, above the others.
            for name in points["dataset"].value_counts().index:
                look, group = dataset_look(str(name)), points[points["dataset"] == name]
                dots = {"s": 4, "marker": look.marker, "alpha": 0.4}
                draw_dots(axes, group[column], group["difference"], look, group["run"].tolist(), **dots)
            if column == "D_last":
                use_log_scale(axes, "x")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set(xlabel=label, ylabel="" if number else "test accuracy − median")
            title(axes, 4 * row + number, look_of(convention).label, only=look_of(convention))
        # Accuracies do not depend on how D is measured.
        if row:
            panels[row, 3].set_axis_off()
        else:
            _compare_training(panels[row, 3], best_rates(last))
            title(panels[row, 3], 3, "at the best rate of each")
    # Images of two sizes have one look.
    legend_above(figure, list(dict.fromkeys(dataset_look(name) for name in sorted(names))), counts, "networks")
    return figure


def _compare_training(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the test accuracy of joint and two-stage training, each at its best learning rate, a line per seed."""
    both = rows[rows.groupby(["dataset", "depth", "width", "optimizer"])["training"].transform("nunique") == 2]
    if both.empty:
        say_not_run(axes)
        return
    for (name, _), group in both.groupby(["dataset", "seed"]):
        look, ordered = dataset_look(str(name)), group.sort_values("training")
        places = [MODES.index(mode) for mode in ordered["training"]]
        axes.plot(places, ordered["test_accuracy"], color=look.colour, linewidth=0.5, alpha=0.6)
        dots = {"s": 6, "marker": look.marker, "alpha": 0.8}
        draw_dots(axes, places, ordered["test_accuracy"], look, ordered["run"].tolist(), **dots)
    axes.set_xticks(range(len(MODES)), MODES)
    axes.set(ylabel="test accuracy", xlim=(-0.3, 1.3))


CAVEAT = (
    "Networks of all depths, widths, optimizers and learning rates, which also affect test accuracy; "
    "shown is the difference from the median test accuracy of the data set. Intervals treat settings as independent; "
    "those of one depth are alike."
)

SHOWS = (
    "A point per network that fits its data: test accuracy less the median of its data set, against D of the last "
    "layer, r and the CV of log ρ. Right: joint against two-stage training, a line per seed."
)
OVERVIEW = Overview("test_accuracy", draw, SHOWS, correlations_with_test_accuracy, CAVEAT, remarks_on_correlations)
