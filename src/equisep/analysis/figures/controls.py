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
from equisep.analysis.nulls import broken_stick_correlations
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

TRAINED, UNTRAINED, PERMUTED, LINEAR = "trained", "untrained", "layers permuted", "linear"
# Lower limit of the axis of 1 + r.
MIN_DISTANCE = 1e-4


def name_controls(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trained network and its controls, distinguished by the column ``control``.

    untrained: at epoch 0. layers permuted: after training, with the hidden layers but the first in a random order.
    linear: trained without ReLU.
    """
    first = rows["epoch"] == rows.groupby("run")["epoch"].transform("min")
    # Permuted measures have a seed in this column, others "null" or nothing.
    permuted = ~rows["permutation_seed"].map(str).isin(("null", "None", "nan"))
    linear = rows["architecture"] == "fnn_linear"
    names = np.select([first, permuted, linear], [UNTRAINED, PERMUTED, LINEAR], TRAINED)
    named = rows.assign(control=names)
    return named[~(first & (permuted | linear)) & ~(permuted & linear)]


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the controls, without the trained network."""
    named = name_controls(tables, rows)
    controls = named[named["control"] != TRAINED]
    return controls.drop(columns=["architecture", "permutation_seed"]).rename(columns={"control": "choice"})


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return notes: p-values of r of the trained networks, and how many of them meet all criteria."""
    # Any two points are on a line.
    nulls = {depth: broken_stick_correlations(depth) for depth in sorted(set(rows["depth"])) if depth > 2}
    notes = []
    named = name_controls(tables, rows)
    trained = named[named["control"] == TRAINED]
    medians = []
    for depth, null in nulls.items():
        values = trained.loc[trained["depth"] == depth, "r"]
        medians.append(f"{np.median([(null <= r).mean() for r in values]):.2g} at depth {depth}")
    notes.append(f"p-value of r under the broken-stick null, trained, median over seeds: {', '.join(medians)}.")
    criteria = load_claims()["controls"].criteria
    holds = np.ones(len(trained), dtype=bool)
    for points, group in trained.groupby("points"):
        met = [criterion.meets(group[criterion.statistic], criterion.bound(group)) for criterion in criteria]
        holds[trained["points"] == points] = np.all(met, axis=0)
    notes.append(f"All criteria hold in {holds.sum()} of {len(trained)} trained networks.")
    notes.append("Shaded: p < 0.05 (dark) and p < 0.5 under the broken-stick null. Dotted: threshold of the claim.")
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
    ("architecture", "depth", "permutation_seed"),
    statistics,
    first_and_last_epoch,
    remarks=remark,
    described=False,
)
