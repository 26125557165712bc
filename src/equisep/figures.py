"""One plotting style, and the figures made of it: log D against layer with the fitted law. No torch here."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.claims import name_value
from equisep.law import Law, fit_law

if TYPE_CHECKING:
    import pandas as pd

    from equisep.experiments import Tables

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


def draw_rows(axes: Axes, tables: Tables, rows: pd.DataFrame, segments: Sequence[tuple[int, int]] = ()) -> None:
    """Draw the law of rows of ``tables.runs``; where none has a curve, say so."""
    curves = tables.curves(rows)
    if curves:
        draw_law(axes, curves, segments)
    else:
        axes.annotate("diverged" if len(rows) else "not run", xy=(0.5, 0.5), xycoords="axes fraction", ha="center")


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


def law_grid(tables: Tables, rows: pd.DataFrame, across: str, down: str | None = None) -> Figure:
    """Return a grid of panels, one for each value of the columns ``across`` and ``down``, each with its law.

    rows: of ``tables.runs``, one learning rate a panel; the title tells it, and how many seeds there are.
    """
    use_style()
    columns, lines = list(dict.fromkeys(rows[across])), list(dict.fromkeys(rows[down])) if down else [None]
    wrapped = math.ceil(len(columns) / 4) if down is None else len(lines)
    width = math.ceil(len(columns) / wrapped) if down is None else len(columns)
    figure = Figure(figsize=(FULL_WIDTH if width > 1 else 3.6, 0.6 + 2.2 * wrapped), layout="constrained")
    panels = figure.subplots(wrapped, width, sharey=True, squeeze=False)
    places = [(line, column) for line in lines for column in columns]
    for axes in panels.flat[len(places) :]:
        axes.set_axis_off()
    for axes, (line, column) in zip(panels.flat, places, strict=False):
        chosen = rows[(rows[across] == column) & ((rows[down] == line) if down else True)]
        draw_rows(axes, tables, chosen)
        named = [(down, line), (across, column)]
        # Every title tells the learning rate anyway.
        names = [name_value(key, value) for key, value in named if key not in (None, "learning_rate")]
        axes.set_title(panel_title(", ".join(names), chosen), fontsize="small")
    label_law_axes(panels)
    for axes, column in zip(panels[-1] if across == "view" else (), columns, strict=False):
        axes.set_xlabel(column)
    return figure


def label_law_axes(panels: Any) -> None:
    """Write what the axes are beside the first column and below the last row of a grid of panels."""
    for axes in panels[:, 0]:
        axes.set_ylabel("separation fuzziness D")
    for axes in panels[-1]:
        axes.set_xlabel("layer")


def panel_title(name: str, rows: pd.DataFrame) -> str:
    """Return the title of a panel: its name, the learning rates of its runs and how many seeds there are."""
    told = [name_value("learning_rate", rate) for rate in dict.fromkeys(rows["learning_rate"])]
    if rows["seed"].nunique() > 1:
        told.append(f"n = {rows['seed'].nunique()}")
    return "\n".join(filter(None, [name, ", ".join(told)]))


def depth_figure(rows: pd.DataFrame) -> Figure:
    """Return the last layer's D, decay ratio and test accuracy against depth, coloured by the best learning rate."""
    use_style()
    figure = Figure(figsize=(FULL_WIDTH, 2.8), layout="constrained")
    panels = figure.subplots(1, 3)
    kinds = {"D_last": "D of the last layer", "decay_ratio": "decay ratio ρ", "test_accuracy": "test accuracy"}
    rates = sorted(set(rows["learning_rate"]))
    colours = dict(zip(rates, PALETTE, strict=False))
    for axes, (column, label) in zip(panels, kinds.items(), strict=True):
        by_depth = rows.groupby("depth")
        spread, chosen = by_depth[column].agg(["median", "min", "max"]), by_depth["learning_rate"].first()
        axes.vlines(spread.index, spread["min"], spread["max"], color="0.7", linewidth=1.5)
        axes.plot(spread.index, spread["median"], color="0.7", linewidth=0.8)
        for rate, colour in colours.items():
            here = spread[chosen == rate]
            name = name_value("learning_rate", rate).removeprefix("rate ")
            axes.plot(here.index, here["median"], "o", color=colour, markersize=4, label=name)
        axes.set(xlabel="depth", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if column != "decay_ratio" and spread["median"].notna().any():
            best = spread["median"].idxmax() if column == "test_accuracy" else spread["median"].idxmin()
            word = "highest" if column == "test_accuracy" else "lowest"
            axes.axvline(best, color="0.8", linewidth=1, zorder=0)
            axes.set_title(f"{word} at {best}", fontsize="small")
    panels[0].set_yscale("log")
    panels[1].legend(fontsize="x-small", title="best learning rate", title_fontsize="x-small", loc="lower right")
    return figure


def place_legend(axes: Axes, place: str = "upper left", title: str | None = None) -> None:
    """Move the legend that seaborn made into a corner that the caller keeps free, in small print."""
    import seaborn as sns

    if axes.get_legend() is None:
        return
    columns = 3 if title else 1
    sns.move_legend(
        axes,
        place,
        ncol=columns,
        title=title,
        fontsize="x-small",
        title_fontsize="x-small",
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def say_not_run(axes: Axes) -> None:
    """Say in an empty panel that there are no runs for it."""
    axes.annotate("not run", xy=(0.5, 0.5), xycoords="axes fraction", ha="center")


def state_claim(figure: Figure, lines: Sequence[str]) -> None:
    """Write a claim, its verdict and notes above a figure's panels, wrapped to its width."""
    columns = round(figure.get_figwidth() * 18)
    wrapped = [part for line in lines for part in textwrap.wrap(line, columns)]
    figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize="small")


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


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write FOLDER/NAME.png and NAME.pdf and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path in paths:
        figure.savefig(path, dpi=200)
    return paths
