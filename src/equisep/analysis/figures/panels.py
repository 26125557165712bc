"""Shared drawing code: grids of panels with their laws, titles, legends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from equisep.analysis.claims import name_value
from equisep.analysis.tables import Tables
from equisep.plots import BLUE, FULL_WIDTH, GREEN, ORANGE, PINK, draw_law, draw_points, use_style

if TYPE_CHECKING:
    import pandas as pd


# Colours of points and line, for two kinds of networks in the same panel.
PAIRS = ((BLUE, ORANGE), (GREEN, PINK))


def wide_figure(height: float, width: float = FULL_WIDTH) -> Figure:
    """Return an empty figure in the project's style, as wide as a two-column page. height, width: inches."""
    use_style()
    return Figure(figsize=(width, height), layout="constrained")


def of_height(height: float) -> Callable[[Any], tuple[float, float]]:
    """Return the size of a figure that is as wide as a page, whatever it shows. height: inches."""
    return lambda rows: (FULL_WIDTH, height)


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write FOLDER/NAME.png and NAME.pdf and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path in paths:
        figure.savefig(path, dpi=200)
    return paths


def draw_curves(axes: Axes, curves: Sequence[Sequence[float]], colours: tuple[str, str] = PAIRS[0]) -> list[float]:
    """Draw D per layer of runs that differ only in their seed, with the law; return r of each.

    Curves with a non-positive D are left out. colours: of points and line.
    """
    usable = [curve for curve in curves if min(curve) > 0]
    laws = next(iter(draw_points(axes, usable, colours).values())) if usable else []
    return [law.pearson_r for law in laws]


def draw_rows(axes: Axes, tables: Tables, rows: pd.DataFrame, segments: Sequence[tuple[int, int]] = ()) -> None:
    """Draw the law of rows of ``tables.runs``, or a remark if none has a curve."""
    curves = tables.curves(rows)
    if curves:
        draw_law(axes, curves, segments)
    else:
        say_not_run(axes, "diverged" if len(rows) else "not run")


def _shape_of_grid(rows: pd.DataFrame, across: str, down: str | None) -> tuple[int, int]:
    """Return the number of rows and columns of panels."""
    columns = rows[across].nunique()
    if down is not None:
        return rows[down].nunique(), columns
    wrapped = math.ceil(columns / 4)
    return wrapped, math.ceil(columns / wrapped)


def grid_size(rows: pd.DataFrame, across: str, down: str | None = None) -> tuple[float, float]:
    """Return width and height of :func:`law_grid`, inches."""
    lines, width = _shape_of_grid(rows, across, down)
    return FULL_WIDTH if width > 1 else FULL_WIDTH / 2, 0.6 + 2.2 * lines


def law_grid(figure: FigureBase, tables: Tables, rows: pd.DataFrame, across: str, down: str | None = None) -> None:
    """Draw a grid of panels, one for each value of the columns ``across`` and ``down``, each with its law.

    rows: of ``tables.runs``, with one learning rate per panel, which the title gives with the number of seeds.
    """
    columns, lines = list(dict.fromkeys(rows[across])), list(dict.fromkeys(rows[down])) if down else [None]
    panels = figure.subplots(*_shape_of_grid(rows, across, down), sharey=True, squeeze=False)
    values = [(line, column) for line in lines for column in columns]
    for axes in panels.flat[len(values) :]:
        axes.set_axis_off()
    for axes, (line, column) in zip(panels.flat, values, strict=False):
        selected = rows[(rows[across] == column) & ((rows[down] == line) if down else True)]
        draw_rows(axes, tables, selected)
        # Every title contains the learning rate anyway.
        named = [(key, value) for key, value in ((down, line), (across, column)) if key not in (None, "learning_rate")]
        axes.set_title(panel_title(", ".join(name_value(*pair) for pair in named), selected), fontsize="small")
    label_law_axes(panels)
    for axes, column in zip(panels[-1] if across == "view" else (), columns, strict=False):
        axes.set_xlabel(column)


def label_law_axes(panels: Any) -> None:
    """Label the axes of the first column and the last row of a grid of panels."""
    for axes in panels[:, 0]:
        axes.set_ylabel("separation fuzziness D")
    # The last row, and above places that are left empty.
    for axes, below in zip(panels.flat, [*panels[1:].flat, *[None] * panels.shape[1]], strict=True):
        if below is None or not below.axison:
            axes.set_xlabel("layer")


def panel_title(name: str, rows: pd.DataFrame) -> str:
    """Return the title of a panel: its name, the learning rates of its runs and the number of seeds."""
    details = [name_value("learning_rate", rate) for rate in dict.fromkeys(rows["learning_rate"])]
    if rows["seed"].nunique() > 1:
        details.append(f"n = {rows['seed'].nunique()}")
    return "\n".join(filter(None, [name, ", ".join(details)]))


def draw_depths(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the last layer's D, decay ratio and test accuracy against depth, coloured by the best learning rate."""
    # It takes a second to load.
    import seaborn as sns

    panels = figure.subplots(1, 3)
    kinds = {"D_last": "D of the last layer", "decay_ratio": "decay ratio ρ", "test_accuracy": "test accuracy"}
    rates = sorted(set(rows["learning_rate"]))
    colours = dict(zip(rates, sns.color_palette("colorblind", len(rates)), strict=True))
    for axes, (column, label) in zip(panels, kinds.items(), strict=True):
        by_depth = rows.groupby("depth")
        spread, best_rate = by_depth[column].agg(["median", "min", "max"]), by_depth["learning_rate"].first()
        axes.vlines(spread.index, spread["min"], spread["max"], color="0.7", linewidth=1.5)
        axes.plot(spread.index, spread["median"], color="0.7", linewidth=0.8)
        for rate, colour in colours.items():
            here = spread[best_rate == rate]
            name = name_value("learning_rate", rate).removeprefix("rate ")
            axes.plot(here.index, here["median"], "o", color=colour, markersize=4, label=name)
        axes.set(xlabel="depth", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if column != "decay_ratio" and spread["median"].notna().any():
            medians = spread["median"]
            extreme, best = ("highest", medians.idxmax()) if column == "test_accuracy" else ("lowest", medians.idxmin())
            axes.axvline(best, color="0.8", linewidth=1, zorder=0)
            axes.set_title(f"{extreme} at {best}", fontsize="small")
    panels[0].set_yscale("log")
    panels[1].legend(fontsize="x-small", title="best learning rate", title_fontsize="x-small", loc="lower right")


def place_legend(axes: Axes, place: str = "upper left", title: str | None = None) -> None:
    """Move seaborn's legend to a free corner of the panel, in small print."""
    import seaborn as sns

    if axes.get_legend() is not None:
        size: dict[str, Any] = {"fontsize": "x-small", "title_fontsize": "x-small", "ncol": 3 if title else 1}
        sns.move_legend(axes, place, title=title, frameon=False, handletextpad=0.4, columnspacing=1.0, **size)


def say_not_run(axes: Axes, text: str = "not run") -> None:
    """Write in an empty panel why it is empty."""
    axes.annotate(text, xy=(0.5, 0.5), xycoords="axes fraction", ha="center")


def state_claim(figure: Figure, lines: Sequence[str]) -> None:
    """Write a claim, its verdict and notes above a figure's panels, wrapped to its width."""
    columns = round(figure.get_figwidth() * 18)
    wrapped = [part for line in lines for part in textwrap.wrap(line, columns)]
    figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize="small")
