"""Half by half against jointly trained: D per layer and test accuracy, CIFAR-10 10×10, depth 20."""

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.figures.panels import draw_rows, panel_title, wide_figure
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

TITLES = ("jointly", "half by half")


def by_way(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of networks trained jointly, and of those trained half by half."""
    frozen = rows["training"].str.startswith("frozen")
    return rows[~frozen], rows[frozen]


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: each way's law, then the test accuracies of all seeds."""
    figure = wide_figure(3.0)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": (2, 2, 1)})
    panels[1].sharey(panels[0])
    for axes, title, chosen in zip(panels, TITLES, by_way(rows), strict=False):
        draw_rows(axes, tables, chosen)
        axes.set_title(panel_title(f"trained {title}", chosen), fontsize="small")
        axes.set(xlabel="layer", ylabel="separation fuzziness D")
    for place, chosen in enumerate(by_way(rows)):
        accuracy = chosen["test_accuracy"]
        panels[2].plot([place] * len(accuracy), accuracy, "o", markersize=3, alpha=0.6)
        panels[2].annotate(
            f"{accuracy.mean():.3f}", (place, accuracy.mean()), xytext=(6, 0), textcoords="offset points"
        )
    panels[2].set_xticks(range(len(TITLES)), TITLES, rotation=20)
    panels[2].set(xlim=(-0.5, 1.9), ylabel="test accuracy")
    return figure


def joint_less_frozen(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed what joint training gains in test accuracy and in r, and how far the losses are apart."""
    joint, frozen = by_way(rows)
    both = joint.merge(frozen, on="seed", suffixes=("_joint", "_frozen"))
    return both.assign(
        accuracy_gain=both["test_accuracy_joint"] - both["test_accuracy_frozen"],
        r_gain=both["r_frozen"] - both["r_joint"],
        train_loss_gap=(both["train_loss_joint"] - both["train_loss_frozen"]).abs(),
    )


REPRODUCTION = Reproduction("frozen", draw, conditions=("training",), statistics=joint_less_frozen)
