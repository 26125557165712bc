"""The law's statistics of networks that should not follow it, beside the trained one, and what chance alone gives."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.claims import load_claims
from equisep.analysis.experiments import first_and_last_epoch
from equisep.analysis.figures.panels import wide_figure
from equisep.analysis.reproduction import FITTED, Reproduction
from equisep.analysis.statistics import broken_stick_correlations, independence_p_value
from equisep.analysis.tables import Tables

ARCHITECTURES = {"fnn": "", "fnn_no_batch_norm": "no batch norm", "fnn_linear": "linear"}
TRAINED, UNTRAINED, RANDOM = "trained", "untrained", "random labels"
# Left end of the axis of 1 + r.
NEAREST = 1e-4


def name_controls(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trained network and of its controls, told apart by the column ``control``.

    A control differs in one thing, or in that and in its labels; untrained is the plain network at epoch 0.
    """
    first = rows["epoch"] == rows.groupby("run")["epoch"].transform("min")
    random = rows["dataset"].str.contains("random_labels")
    kinds = rows["architecture"].map(ARCHITECTURES)
    labels = np.where(random, RANDOM, "")
    names = [", ".join(filter(None, pair)) or TRAINED for pair in zip(kinds, labels, strict=True)]
    named = rows.assign(control=np.where(first, UNTRAINED, names))
    # Before training labels and data are not told apart by the network: once is enough.
    return named[~first | ((kinds == "") & ~random)]


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the controls' rows, without the trained network's."""
    named = name_controls(tables, rows)
    controls = named[named["control"] != TRAINED]
    return controls.drop(columns=["architecture", "dataset"]).rename(columns={"control": "choice"})


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return how cheap the claim's r is, and what the trained network and its controls have."""
    threshold = _criterion("r")
    # Through two points goes any line.
    depths = [depth for depth in sorted(set(rows["depth"])) if depth > 2]
    chances = [f"{(broken_stick_correlations(depth) <= threshold).mean():.0%} at depth {depth}" for depth in depths]
    others = [f"{independence_p_value(threshold, depth):.2g}" for depth in depths]
    told = [
        f"By chance r ≤ {threshold:g}, where every layer cuts D by a random part of it all, in {', '.join(chances)}; "
        f"where log D has nothing to do with the layer, in a share of {', '.join(others)}.".replace("-", "−")
    ]
    named = name_controls(tables, rows)
    for control in (TRAINED, RANDOM):
        shares = [
            _chance_of(named[(named["depth"] == depth) & (named["control"] == control)], depth) for depth in depths
        ]
        told.append(f"An r as low as theirs by chance, {control}: {', '.join(shares)} (median over seeds).")
    trained = named[named["control"] == TRAINED]
    held = pd.Series(True, index=trained.index)
    for criterion in load_claims()["controls"].criteria:
        held &= trained[criterion.statistic] <= criterion.threshold
    told.append(f"All four criteria hold in {held.sum()} of {len(trained)} trained networks.")
    last = named[(named["control"] != TRAINED) & (named["control"] != UNTRAINED)]
    groups = last.groupby(["depth", "control"])["train_accuracy"].median()
    told.append(
        f"Of the controls that were trained, {(groups < FITTED).sum()} of {len(groups)} did not fit their labels."
    )
    told.append("Shaded: the lowest twentieth (dark), and half, of r by chance. Dotted: what the claim allows.")
    return told


def _chance_of(rows: pd.DataFrame, depth: int) -> str:
    """Return the share of random networks with an r as low as that of the rows, the median over rows."""
    chance = broken_stick_correlations(depth)
    return f"{np.median([(chance <= r).mean() for r in rows['r']]):.2g} at depth {depth}"


def _criterion(statistic: str) -> float:
    return next(one.threshold for one in load_claims()["controls"].criteria if one.statistic == statistic)


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: r, and the largest residual, of the trained network and its controls, a column a depth."""
    named = name_controls(tables, rows)
    depths = [depth for depth in sorted(set(named["depth"])) if depth > 2] or [3]
    order = [TRAINED, *(name for name in dict.fromkeys(named["control"]) if name != TRAINED)]
    figure = wide_figure(5.2)
    panels = figure.subplots(2, len(depths), sharey=True, sharex="row", squeeze=False)
    for (upper, lower), depth in zip(panels.T, depths, strict=True):
        here = named[named["depth"] == depth]
        chance = 1 + broken_stick_correlations(depth)
        for share, shade in ((0.5, "0.93"), (0.05, "0.82")):
            upper.axvspan(NEAREST, np.quantile(chance, share), color=shade, zorder=0, linewidth=0)
        _strip(upper, here.assign(distance=1 + here["r"]), "distance", order)
        upper.set(xlim=(NEAREST, 3), xlabel="1 + r", title=f"depth {depth}")
        upper.axvline(1 + _criterion("r"), color="0.4", linewidth=0.8, linestyle=":")
        _strip(lower, here, "relative_residual", order)
        lower.axvline(_criterion("relative_residual"), color="0.4", linewidth=0.8, linestyle=":")
        lower.set(xlabel="residual / fall of log D")
    return figure


def _strip(axes: Axes, rows: pd.DataFrame, x: str, order: list[str]) -> None:
    """Draw every network beside the name of its kind, and say how many of a kind have no value."""
    finite = np.isfinite(rows[x].astype(float))
    colours: dict[str, Any] = {"hue": "control", "hue_order": order, "palette": "colorblind", "legend": False}
    sns.stripplot(rows[finite], x=x, y="control", order=order, size=4, jitter=False, ax=axes, **colours)
    for control, count in rows[~finite].groupby("control").size().items():
        place: dict[str, Any] = {"xy": (0.03, order.index(str(control))), "xycoords": ("axes fraction", "data")}
        axes.annotate(f"{count} without", **place, ha="left", va="center", fontsize="x-small")
    axes.set(xscale="log", ylabel="")


REPRODUCTION = Reproduction(
    "controls", draw, ("architecture", "depth", "dataset"), statistics, first_and_last_epoch, remarks=remark
)
