"""The law's statistics for control networks that should not follow it, with p-values of r under two null models."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from equisep.analysis.claims import Criterion, load_claims
from equisep.analysis.experiments import first_and_last_epoch
from equisep.analysis.figures.panels import of_height
from equisep.analysis.nulls import broken_stick_correlations, independence_p_value
from equisep.analysis.reproduction import FITTED, Reproduction
from equisep.analysis.tables import Tables

ARCHITECTURES = {"fnn": "", "fnn_no_batch_norm": "no batch norm", "fnn_linear": "linear"}
TRAINED, UNTRAINED, RANDOM = "trained", "untrained", "random labels"
# Lower limit of the axis of 1 + r.
MIN_DISTANCE = 1e-4


def name_controls(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trained network and its controls, distinguished by the column ``control``.

    A control differs in the architecture, the labels or both; "untrained" is the plain network at epoch 0.
    """
    first = rows["epoch"] == rows.groupby("run")["epoch"].transform("min")
    random = rows["dataset"].str.contains("random_labels")
    kinds = rows["architecture"].map(ARCHITECTURES)
    labels = np.where(random, RANDOM, "")
    names = [", ".join(filter(None, pair)) or TRAINED for pair in zip(kinds, labels, strict=True)]
    named = rows.assign(control=np.where(first, UNTRAINED, names))
    # Before training the labels make no difference: the plain network is enough.
    return named[~first | ((kinds == "") & ~random)]


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the controls, without the trained network."""
    named = name_controls(tables, rows)
    controls = named[named["control"] != TRAINED]
    return controls.drop(columns=["architecture", "dataset"]).rename(columns={"control": "choice"})


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return notes: p-values of the claim's threshold for r, and of r of the trained networks and of random labels."""
    criterion = _criterion("r")
    # Any two points are on a line.
    nulls = {depth: broken_stick_correlations(depth) for depth in sorted(set(rows["depth"])) if depth > 2}
    broken_stick = [f"{(null <= criterion.threshold).mean():.2f} at depth {depth}" for depth, null in nulls.items()]
    independence = [f"{independence_p_value(criterion.threshold, depth):.2g}".replace("-", "−") for depth in nulls]
    notes = [
        f"p-value of r {criterion.bound} under the broken-stick null (each layer reduces log D by a random share of "
        f"the total): {', '.join(broken_stick)}; under independence of log D and layer: {', '.join(independence)}."
    ]
    named = name_controls(tables, rows)
    for control in (TRAINED, RANDOM):
        medians = []
        for depth, null in nulls.items():
            selected = named[(named["depth"] == depth) & (named["control"] == control)]
            medians.append(f"{np.median([(null <= r).mean() for r in selected['r']]):.2g} at depth {depth}")
        notes.append(f"p-value of r under the broken-stick null, {control}, median over seeds: {', '.join(medians)}.")
    trained = named[named["control"] == TRAINED]
    criteria = load_claims()["controls"].criteria
    holds = np.all([trained[criterion.statistic] <= criterion.threshold for criterion in criteria], axis=0)
    notes.append(f"All four criteria hold in {holds.sum()} of {len(trained)} trained networks.")
    last = named[~named["control"].isin([TRAINED, UNTRAINED])]
    accuracy = last.groupby(["depth", "control"])["train_accuracy"].median()
    notes.append(
        f"{(accuracy < FITTED).sum()} of {len(accuracy)} trained controls (by depth) did not fit their labels."
    )
    notes.append("Shaded: p < 0.05 (dark) and p < 0.5 under the broken-stick null. Dotted: thresholds of the claim.")
    return notes


def _criterion(statistic: str) -> Criterion:
    return next(criterion for criterion in load_claims()["controls"].criteria if criterion.statistic == statistic)


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the figure: r and largest residual of the trained network and its controls, a column per depth."""
    named = name_controls(tables, rows)
    depths = [depth for depth in sorted(set(named["depth"])) if depth > 2] or [3]
    order = [TRAINED, *(name for name in dict.fromkeys(named["control"]) if name != TRAINED)]
    panels = figure.subplots(2, len(depths), sharey=True, sharex="row", squeeze=False)
    for (upper, lower), depth in zip(panels.T, depths, strict=True):
        selected = named[named["depth"] == depth]
        null = 1 + broken_stick_correlations(depth)
        for p_value, shade in ((0.5, "0.93"), (0.05, "0.82")):
            upper.axvspan(MIN_DISTANCE, np.quantile(null, p_value), color=shade, zorder=0, linewidth=0)
        _strip(upper, selected.assign(distance=1 + selected["r"]), "distance", order)
        upper.set(xlim=(MIN_DISTANCE, 3), xlabel="1 + r", title=f"depth {depth}")
        upper.axvline(1 + _criterion("r").threshold, color="0.4", linewidth=0.8, linestyle=":")
        _strip(lower, selected, "relative_residual", order)
        lower.axvline(_criterion("relative_residual").threshold, color="0.4", linewidth=0.8, linestyle=":")
        lower.set(xlabel="residual / fall of log D")


def _strip(axes: Axes, rows: pd.DataFrame, x: str, order: list[str]) -> None:
    """Draw a point per network beside its kind, and write for how many networks of a kind it is undefined."""
    finite = np.isfinite(rows[x].astype(float))
    colours: dict[str, Any] = {"hue": "control", "hue_order": order, "palette": "colorblind", "legend": False}
    sns.stripplot(rows[finite], x=x, y="control", order=order, size=4, jitter=False, ax=axes, **colours)
    for control, count in rows[~finite].groupby("control").size().items():
        position: dict[str, Any] = {"xy": (0.03, order.index(str(control))), "xycoords": ("axes fraction", "data")}
        axes.annotate(f"{count} undefined", **position, ha="left", va="center", fontsize="x-small")
    axes.set(xscale="log", ylabel="")


REPRODUCTION = Reproduction(
    "controls",
    draw,
    of_height(5.2),
    ("architecture", "depth", "dataset"),
    statistics,
    first_and_last_epoch,
    remarks=remark,
)
