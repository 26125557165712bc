"""Two-stage against joint training: D per layer and test accuracy, CIFAR-10 10×10, depth 20."""

import pandas as pd
from matplotlib.figure import FigureBase

from equisep.analysis.figures.panels import draw_rows, of_height, panel_title
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

MODES = ("joint", "two-stage")


def by_mode(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of jointly trained networks, and of those trained in two stages."""
    frozen = rows["training"].str.startswith("frozen")
    return rows[~frozen], rows[frozen]


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the figure: the law under each training mode, then the test accuracies of all seeds."""
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": (2, 2, 1)})
    panels[1].sharey(panels[0])
    for number, (mode, selected) in enumerate(zip(MODES, by_mode(rows), strict=True)):
        draw_rows(panels[number], tables, selected)
        panels[number].set_title(panel_title(f"{mode} training", selected), fontsize="small")
        panels[number].set(xlabel="layer", ylabel="separation fuzziness D")
        accuracy = selected["test_accuracy"]
        panels[2].plot([number] * len(accuracy), accuracy, "o", markersize=3, alpha=0.6)
        position = (number, accuracy.mean())
        panels[2].annotate(f"{accuracy.mean():.3f}", position, xytext=(6, 0), textcoords="offset points")
    panels[2].set_xticks(range(len(MODES)), MODES, rotation=20)
    panels[2].set(xlim=(-0.5, 1.9), ylabel="test accuracy")


def joint_minus_frozen(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the gain of joint training in test accuracy and in r, and the difference of the losses."""
    joint, frozen = by_mode(rows)
    both = joint.merge(frozen, on="seed", suffixes=("_joint", "_frozen"))
    return both.assign(
        accuracy_gain=both["test_accuracy_joint"] - both["test_accuracy_frozen"],
        r_gain=both["r_frozen"] - both["r_joint"],
        train_loss_gap=(both["train_loss_joint"] - both["train_loss_frozen"]).abs(),
    )


REPRODUCTION = Reproduction("frozen", draw, of_height(3.0), conditions=("training",), statistics=joint_minus_frozen)
