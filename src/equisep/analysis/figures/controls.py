"""The law's statistics for control networks that should not follow it, with p-values under the broken-stick null."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.claims import Criterion, load_claims
from equisep.analysis.experiments import first_and_last_epoch
from equisep.analysis.figures.panels import Parts, drawn_parts, legend_above, title
from equisep.analysis.nulls import broken_stick_correlations
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.plots import CONTROL, PAGE_WIDTH, SMALL, Look, draw_dots, new_figure, use_log_scale

TRAINED, UNTRAINED, PERMUTED, LINEAR = "trained", "untrained", "layers permuted", "linear"
# Lower limit of the axis of 1 + r.
MIN_DISTANCE = 1e-5


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
    return notes


def _criterion(statistic: str) -> Criterion:
    return next(criterion for criterion in load_claims()["controls"].criteria if criterion.statistic == statistic)


def draw(parts: Parts) -> Figure:
    """Draw the figure: r and largest residual of the trained network and its controls, a column per depth."""
    named = [(look, name_controls(part.tables, part.rows)) for look, part in drawn_parts(parts)]
    everything = pd.concat([rows for _, rows in named])
    depths = [depth for depth in sorted(set(everything["depth"])) if depth > 2] or [3]
    order = [TRAINED, *(name for name in (UNTRAINED, PERMUTED, LINEAR) if name in set(everything["control"]))]
    figure = new_figure(PAGE_WIDTH, 88)
    panels = figure.subplots(2, len(depths), sharey=True, sharex="row", squeeze=False)
    for column, ((upper, lower), depth) in enumerate(zip(panels.T, depths, strict=True)):
        null = 1 + broken_stick_correlations(depth)
        for p_value, shade in ((0.5, "0.94"), (0.05, "0.86")):
            upper.axvspan(MIN_DISTANCE, np.quantile(null, p_value), color=shade, zorder=0, linewidth=0)
        lower.axvline(_criterion("relative_residual").threshold, color=CONTROL, linewidth=0.75, linestyle=":")
        for number, (look, rows) in enumerate(named):
            here = rows[rows["depth"] == depth]
            shift = 0.3 * (number - (len(named) - 1) / 2)
            _strip(upper, here.assign(distance=1 + here["r"]), "distance", order, look, shift)
            _strip(lower, here, "relative_residual", order, look, shift)
        upper.set(xlim=(MIN_DISTANCE, 3), xlabel="1 + r", yticks=range(len(order)), yticklabels=order)
        lower.set(xlabel="residual / fall of log D")
        for axes in (upper, lower):
            use_log_scale(axes, "x")
        title(upper, column, f"depth {depth:g}")
        title(lower, len(depths) + column, f"depth {depth:g}")
    panels[0, 0].set_ylim(len(order) - 0.5, -0.5)
    legend_above(figure, [look for look, _ in named], {everything["seed"].nunique()})
    return figure


def _strip(axes: Axes, rows: pd.DataFrame, x: str, order: list[str], look: Look, shift: float) -> None:
    """Draw a point per network at the height of its kind, and write for how many networks of a kind it is undefined."""
    for height, control in enumerate(order):
        group = rows[rows["control"] == control]
        finite = group[np.isfinite(group[x].astype(float))]
        drawn = look if control == TRAINED else Look(look.label, CONTROL, look.marker)
        heights = np.full(len(finite), height + shift)
        draw_dots(axes, finite[x], heights, drawn, finite["run"].tolist(), s=8, marker=look.marker, alpha=0.7)
        if len(finite) < len(group):
            text = f"{len(group) - len(finite)} undefined"
            place: dict[str, Any] = {
                "xycoords": ("axes fraction", "data"),
                "va": "center",
                "fontsize": SMALL,
                "color": CONTROL,
            }
            axes.annotate(text, (0.03, height + shift), **place)


SHOWS = (
    "A point per network; controls in grey. Upper row: 1 + r, shaded where chance reaches r with p < 0.05 (dark) "
    "and p < 0.5 under the broken-stick null. Lower row: the largest residual of log D over its fall; dotted: the "
    "claim's threshold."
)
REPRODUCTION = Reproduction(
    "controls",
    draw,
    SHOWS,
    ("architecture", "depth", "permutation_seed"),
    statistics,
    first_and_last_epoch,
    remarks=remark,
    described=False,
)
