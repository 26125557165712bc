"""One plotting style, and the picture of one network's law: log D against layer. No torch here."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.measures import Law, fit_law

# Width of the text block of a two-column journal page, inches.
FULL_WIDTH = 7.0
# The first of seaborn's colour-blind safe palette, in pairs of points and line.
BLUE, ORANGE, GREEN, PINK = "#0173b2", "#de8f05", "#029e73", "#cc78bc"
PALETTE = (BLUE, ORANGE, GREEN, "#d55e00", PINK)


def use_style() -> None:
    """Set the project's look for the figures that follow: no window, colour-blind safe, readable in a column."""
    # Imported here: a run draws its layer plot without it, and so starts a second sooner.
    import seaborn as sns

    matplotlib.use("Agg")
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        rc={"axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.bbox": "tight"},
    )


def draw_law(axes: Axes, curves: Sequence[Sequence[float]], segments: Sequence[tuple[int, int]] = ()) -> None:
    """Draw D per layer of runs that differ in their seed alone, with the law fitted to their median, with r and ρ.

    curves: D of each layer, the input first, a sequence a run; equally many layers. A run with a dead layer (D = 0)
    is drawn in grey as far as it lives, and left out of the fit. segments: see :func:`draw_points`. The text
    gives the median of r and ρ over runs and, of more than one, their range.
    """
    living = [curve for curve in curves if all(value > 0 for value in curve)]
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for curve in curves:
        axes.set_xlim(-0.5, len(curve) - 0.5)
        if curve not in living:
            values = np.where(np.asarray(curve) > 0, curve, np.nan)
            axes.plot(values, ".-", color="0.6", markersize=3, linewidth=0.6, zorder=0)
    dead = len(curves) - len(living)
    if dead:
        text = f"{dead} of {len(curves)} with\nlayers without D"
        axes.annotate(text, xy=(0.03, 0.98), xycoords="axes fraction", va="top", fontsize="x-small", color="0.4")
    if not living:
        return
    told = []
    for stretch, laws in draw_points(axes, living, segments=segments).items():
        told += [f"{stretch[0]} to {stretch[1]}:"] if segments else []
        told += [
            median_and_range("r", [law.pearson_r for law in laws], 4),
            median_and_range("ρ", [law.decay_ratio for law in laws], 3),
        ]
    # The corner that the line leaves free.
    falls = np.median([curve[-1] for curve in living]) < np.median([curve[0] for curve in living])
    corner: dict[str, Any] = {"xy": (0.98, 0.98), "va": "top"} if falls else {"xy": (0.98, 0.02), "va": "bottom"}
    axes.annotate("\n".join(told), xycoords="axes fraction", ha="right", fontsize="x-small", **corner)


def draw_points(
    axes: Axes,
    curves: Sequence[Sequence[float]],
    colours: tuple[str, str] = (BLUE, ORANGE),
    segments: Sequence[tuple[int, int]] = (),
) -> dict[tuple[int, int], list[Law]]:
    """Draw D per layer and the fitted law; return the laws of each run, by first and last layer of each segment.

    curves: D of each layer, the input first, a sequence a run, at least one; equally many layers. Points are medians,
    bars the range over runs, the line is fitted to the medians. colours: of points and line. segments: first and
    last layer of each stretch that has a law of its own; none for one law over all layers.
    """
    points, line_colour = colours
    values = np.asarray(curves, dtype=float)
    median = np.median(values, axis=0)
    layers = np.arange(values.shape[1])
    laws = {}
    for first, last in segments or [(0, len(median) - 1)]:
        stretch = slice(first, last + 1)
        line = fit_law(median[stretch])
        fitted = np.exp(line.intercept + line.slope * np.arange(last + 1 - first))
        axes.plot(layers[stretch], fitted, color=line_colour, linewidth=1.2, zorder=1)
        laws[first, last] = [fit_law(curve[stretch]) for curve in values]
    axes.vlines(layers, values.min(axis=0), values.max(axis=0), color=points, linewidth=1.5, alpha=0.5, zorder=2)
    axes.scatter(layers, median, s=12, color=points, zorder=3, linewidths=0)
    return laws


def median_and_range(name: str, values: Sequence[float], digits: int) -> str:
    """Return a median and, of more than one value, the range, as a figure tells it."""
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
