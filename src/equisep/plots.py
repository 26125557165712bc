"""The plotting style, and the plot of a network's law: log D against layer. Needs no torch."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.measures import Law, fit_law

# Text width of a two-column journal page, inches.
FULL_WIDTH = 7.0
# From seaborn's colour-blind safe palette.
BLUE, ORANGE, GREEN, PINK = "#0173b2", "#de8f05", "#029e73", "#cc78bc"


def use_style() -> None:
    """Set the style of all later figures: no window, colour-blind safe, readable in a column."""
    # Imported here: it takes a second to load, and runs draw their layer plots without it.
    import seaborn as sns

    matplotlib.use("Agg")
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        rc={"axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.bbox": "tight"},
    )


def draw_law(axes: Axes, curves: Sequence[Sequence[float]], segments: Sequence[tuple[int, int]] = ()) -> None:
    """Draw D per layer of runs that differ only in their seed, with the law fitted to their median.

    curves: per run D of each layer, the input first; equally many layers. Runs with a dead layer (D = 0) are drawn in
    grey up to that layer and excluded from the fit. segments: see :func:`draw_points`. The annotation gives the median
    of r and ρ over runs and, for several runs, their range.
    """
    fitted = [curve for curve in curves if all(value > 0 for value in curve)]
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for curve in curves:
        axes.set_xlim(-0.5, len(curve) - 0.5)
        if curve not in fitted:
            values = np.where(np.asarray(curve) > 0, curve, np.nan)
            axes.plot(values, ".-", color="0.6", markersize=3, linewidth=0.6, zorder=0)
    if len(fitted) < len(curves):
        text = f"{len(curves) - len(fitted)} of {len(curves)} runs\nwith dead layers"
        axes.annotate(text, xy=(0.03, 0.98), xycoords="axes fraction", va="top", fontsize="x-small", color="0.4")
    if not fitted:
        return
    lines = []
    for (first, last), laws in draw_points(axes, fitted, segments=segments).items():
        lines += [f"{first} to {last}:"] if segments else []
        lines.append(median_and_range("r", [law.pearson_r for law in laws], 4))
        lines.append(median_and_range("ρ", [law.decay_ratio for law in laws], 3))
    # The corner away from the line.
    falls = np.median([curve[-1] for curve in fitted]) < np.median([curve[0] for curve in fitted])
    corner: dict[str, Any] = {"xy": (0.98, 0.98), "va": "top"} if falls else {"xy": (0.98, 0.02), "va": "bottom"}
    axes.annotate("\n".join(lines), xycoords="axes fraction", ha="right", fontsize="x-small", **corner)


def draw_points(
    axes: Axes,
    curves: Sequence[Sequence[float]],
    colours: tuple[str, str] = (BLUE, ORANGE),
    segments: Sequence[tuple[int, int]] = (),
) -> dict[tuple[int, int], list[Law]]:
    """Draw D per layer and the fitted law; return the law of each run by (first, last) layer of each segment.

    curves: per run, of at least one, D of each layer, the input first; equally many layers. Points are medians, bars
    the range over runs; the line is fitted to the medians. colours: of points and line. segments: first and last layer
    of each segment with a law of its own; empty for one law over all layers.
    """
    points, line_colour = colours
    values = np.asarray(curves, dtype=float)
    median = np.median(values, axis=0)
    layers = np.arange(values.shape[1])
    laws = {}
    for first, last in segments or [(0, len(median) - 1)]:
        segment = slice(first, last + 1)
        law = fit_law(median[segment])
        fitted = np.exp(law.intercept + law.slope * np.arange(last + 1 - first))
        axes.plot(layers[segment], fitted, color=line_colour, linewidth=1.2, zorder=1)
        laws[first, last] = [fit_law(curve[segment]) for curve in values]
    axes.vlines(layers, values.min(axis=0), values.max(axis=0), color=points, linewidth=1.5, alpha=0.5, zorder=2)
    axes.scatter(layers, median, s=12, color=points, zorder=3, linewidths=0)
    return laws


def median_and_range(name: str, values: Sequence[float], digits: int) -> str:
    """Return the text of a median and, for several values, the range."""
    text = f"{name} = {np.median(values):.{digits}f}"
    if len(values) > 1:
        text += f"\n[{min(values):.{digits}f}, {max(values):.{digits}f}]"
    return text.replace("-", "−")


def layer_plot(fuzziness: Sequence[float], title: str) -> Figure:
    """Return a small figure of one network: D per layer, the fitted law, r and ρ."""
    figure = Figure(figsize=(3.4, 2.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    draw_law(axes, [fuzziness])
    axes.set(xlabel="layer", ylabel="separation fuzziness D", title=title)
    return figure
