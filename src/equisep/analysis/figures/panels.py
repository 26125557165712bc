"""What the figures share: grids of panels with their laws, titles, legends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.analysis.claims import name_value
from equisep.analysis.tables import Tables
from equisep.plots import BLUE, FULL_WIDTH, GREEN, ORANGE, PALETTE, PINK, draw_law, draw_points, use_style

if TYPE_CHECKING:
    import pandas as pd


# Colours of the points and the line of one kind of network, and of another in the same panel.
PAIRS = ((BLUE, ORANGE), (GREEN, PINK))


def wide_figure(height: float, width: float = FULL_WIDTH) -> Figure:
    """Return an empty figure in the project's style, as wide as a two-column page. height, width: inches."""
    use_style()
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write FOLDER/NAME.png and NAME.pdf and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path in paths:
        figure.savefig(path, dpi=200)
    return paths


def draw_curves(axes: Axes, curves: Sequence[Sequence[float]], colours: tuple[str, str] = PAIRS[0]) -> list[float]:
    """Draw D per layer of runs that differ in their seed alone, with the law; return r of each.

    Curves with a layer whose D has no logarithm are left out. colours: of points and line.
    """
    usable = [curve for curve in curves if min(curve) > 0]
    laws = next(iter(draw_points(axes, usable, colours).values())) if usable else []
    return [law.pearson_r for law in laws]


def draw_rows(axes: Axes, tables: Tables, rows: pd.DataFrame, segments: Sequence[tuple[int, int]] = ()) -> None:
    """Draw the law of rows of ``tables.runs``; where none has a curve, say so."""
    curves = tables.curves(rows)
    if curves:
        draw_law(axes, curves, segments)
    else:
        axes.annotate("diverged" if len(rows) else "not run", xy=(0.5, 0.5), xycoords="axes fraction", ha="center")


def law_grid(tables: Tables, rows: pd.DataFrame, across: str, down: str | None = None) -> Figure:
    """Return a grid of panels, one for each value of the columns ``across`` and ``down``, each with its law.

    rows: of ``tables.runs``, one learning rate a panel; the title tells it, and how many seeds there are.
    """
    columns, lines = list(dict.fromkeys(rows[across])), list(dict.fromkeys(rows[down])) if down else [None]
    wrapped = math.ceil(len(columns) / 4) if down is None else len(lines)
    width = math.ceil(len(columns) / wrapped) if down is None else len(columns)
    figure = wide_figure(0.6 + 2.2 * wrapped, FULL_WIDTH if width > 1 else 3.6)
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
    figure = wide_figure(2.8)
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
