"""Shared drawing code: grids of laws under all conventions, values against a setting, titles, legends, files."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from numpy.typing import NDArray

from equisep.analysis.claims import name_value
from equisep.analysis.statistics import half_width, interval_over_seeds
from equisep.analysis.tables import Tables
from equisep.config import ALL_CONVENTIONS
from equisep.measures import fit_law
from equisep.plots import (
    COLUMN_WIDTH,
    CONTROL,
    CONVENTIONS,
    LAW_HEIGHTS,
    LIGHT,
    MARKERS,
    ONE_CONVENTION,
    PAGE_WIDTH,
    SMALL,
    Look,
    describe_law,
    draw_dots,
    draw_law,
    law_panel,
    line_of_law,
    new_figure,
    tag,
)

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("png", "pdf", "svg")
# Training accuracy from which a network counts as fitting its data.
FITTED = 0.99
# How a law is drawn, for captions.
LAWS = (
    "Log D of the training set against layer, 0 the input; as published with batch statistics of batches of 100 in "
    "stored order, in evaluation mode with running statistics. Marks and bars: means over networks with 95 % "
    "intervals by Student's t over seeds; dots: networks; lines: means of the networks' laws; strips: residuals of "
    "log D from the law of each network, to scale up to 0.2 and logarithmic beyond; r (mean of atanh r) and ρ: means "
    "over networks."
)
NEUTRAL = Look("", CONTROL, "o")
# Of the marks of two looks, of the panel's width, half of it to each side.
SHIFT = 0.008
# Of panels, mm.
MAX_ACROSS, PANEL_HEIGHT, MARGIN = 4, 46, 9


@dataclass(frozen=True)
class Part:
    """What is drawn under one convention. rows: those of ``tables.runs`` that are shown."""

    tables: Tables
    rows: pd.DataFrame

    def select(self, **values: Any) -> Part:
        """Return the part with the rows that have these values in these columns."""
        chosen = np.logical_and.reduce([self.rows[name] == value for name, value in values.items()])
        return Part(self.tables, self.rows[chosen])


Parts = Mapping[str, Part]


def look_of(convention: str) -> Look:
    """Return the look of a convention; those without a name of their own are grey."""
    known = {**CONVENTIONS, ALL_CONVENTIONS: ONE_CONVENTION}
    return known.get(convention, Look(convention, CONTROL, "o"))


def rate_looks(rates: Sequence[float]) -> dict[float, Look]:
    """Return the look of each learning rate: the higher, the darker."""
    colours = matplotlib.colormaps["RdPu"](np.linspace(0.35, 1, len(rates)))
    ordered = zip(sorted(rates), map(matplotlib.colors.to_hex, colours), MARKERS, strict=False)
    return {rate: Look(name_value("learning_rate", rate), colour, marker) for rate, colour, marker in ordered}


def drawn_parts(parts: Parts) -> list[tuple[Look, Part]]:
    """Return what to draw with its look; networks without batch normalisation, equal in all parts, are drawn once."""
    drawn = [
        (look_of(name), Part(part.tables, part.rows[part.rows["convention"] == name])) for name, part in parts.items()
    ]
    first = next(iter(parts.values()))
    if ALL_CONVENTIONS not in parts:
        same = first.rows["convention"] == ALL_CONVENTIONS
        drawn.append((ONE_CONVENTION, Part(first.tables, first.rows[same])))
    return [(look, part) for look, part in drawn if len(part.rows)]


def all_rows(parts: Parts) -> pd.DataFrame:
    """Return the rows of all parts below each other."""
    import pandas as pd

    return pd.concat([part.rows for part in parts.values()], ignore_index=True)


def save_figure(figure: Figure, folder: Path, name: str, caption: str) -> list[Path]:
    """Write FOLDER/NAME.png, .pdf and .svg with the caption in their metadata; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf, svg = paths = [folder / f"{name}.{kind}" for kind in FORMATS]
    # Figure.savefig draws twice, once only to lay out. Without dates, equal figures are equal files.
    FigureCanvasAgg(figure).print_png(png, metadata={"Description": caption, "Software": None})  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")
    described = {"Subject": caption, "CreationDate": None, "Creator": None, "Producer": None}
    FigureCanvasPdf(figure).print_pdf(pdf, metadata=described)  # type: ignore[no-untyped-call]
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Description": caption, "Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return paths


def draw_curves(
    panel: tuple[Axes, Axes],
    parts: Iterable[tuple[Look, Part]],
    fit: Callable[[NDArray[np.float64]], NDArray[np.float64]] = line_of_law,
    describe: Callable[[Sequence[Sequence[float]]], str] | None = None,
    *,
    name_rate: bool = True,
) -> None:
    """Draw the laws of networks that differ only in their seed in a panel, one for each part, with r, ρ and their rate.

    Networks with a layer of which D is 0 are grey, without a law. describe: the text of a part's curves, by default r
    and ρ. name_rate: whether the learning rate is written; of networks that do not fit, so is their training accuracy.
    """
    accuracy: dict[str, float] = {}
    rates: dict[float, None] = {}
    texts: list[tuple[str, Look]] = []
    falls = True
    drawn = list(parts)
    for number_of_part, (look, part) in enumerate(drawn):
        rates |= dict.fromkeys(part.rows["learning_rate"])
        accuracy |= dict(zip(part.rows["run"], part.rows["train_accuracy"], strict=True))
        curves = part.tables.curves(part.rows)
        usable = [number for number, curve in enumerate(curves) if all(0 < value < math.inf for value in curve)]
        for number, curve in enumerate(curves):
            panel[0].set_xlim(-0.5, len(curve) - 0.5)
            if number not in usable:
                panel[0].plot(np.where(np.asarray(curve) > 0, curve, np.nan), color=LIGHT, linewidth=0.5, zorder=0)
        if len(usable) < len(curves):
            texts.append((f"{len(curves) - len(usable)} of {len(curves)}: D = 0 in a layer", NEUTRAL))
        if not usable:
            texts += [] if curves else [("diverged", look)]
            continue
        runs = part.rows.loc[part.rows["train_loss"].notna(), "run"].tolist()
        chosen = [curves[number] for number in usable]
        # About a mark's width beside each other.
        shift = SHIFT * len(chosen[0]) * (2 * number_of_part - len(drawn) + 1)
        draw_law(panel, chosen, look, half_width, [runs[number] for number in usable], fit, shift)
        falls = fit_law(np.exp(np.log(chosen).mean(axis=0))).slope < 0
        text = describe(chosen) if describe else describe_law([fit_law(curve) for curve in chosen])
        texts.append((text, look))
    # In the corner away from the line.
    write_lines(panel[0], texts or [("not run", NEUTRAL)], "upper" if falls else "lower")
    named = [name_value("learning_rate", rate) for rate in rates if math.isfinite(rate)] if name_rate else []
    known = [value for value in accuracy.values() if math.isfinite(value)]
    reached = sum(known) / len(known) if known else math.nan
    named += [f"accuracy {reached:.2f}"] if reached < FITTED else []
    _write(panel[0], "\n".join(named[::-1]), (0, 0), (3, 2), color=CONTROL)


def write_lines(axes: Axes, lines: Sequence[tuple[str, Look]], place: str = "upper") -> None:
    """Write lines of text, each in its colour, into the upper or lower right corner of a panel."""
    height = SMALL + 2.5
    for number, (text, look) in enumerate(lines):
        if place == "upper":
            note = _write(axes, text, (1, 1), (-1, -number * height - 1), color=look.colour)
        else:
            note = _write(axes, text, (1, 0), (-1, (len(lines) - 1 - number) * height + 2), color=look.colour)
        tag(note, look)


def _write(axes: Axes, text: str, corner: tuple[int, int], shift: tuple[float, float], color: str) -> Annotation:
    """Write small text into a corner of a panel. corner: 0 or 1 across and up; shift: points."""
    return axes.annotate(
        text,
        corner,
        xycoords="axes fraction",
        xytext=shift,
        textcoords="offset points",
        ha=("left", "right")[corner[0]],
        va=("bottom", "top")[corner[1]],
        color=color,
        fontsize=SMALL,
    )


def law_grid(parts: Parts, across: str, down: str | None = None, repeats: str = "seeds") -> Figure:
    """Return a figure with a panel for each value of the columns ``across`` and ``down``, all conventions in each.

    Each panel has one learning rate. repeats: what the networks of a panel differ in.
    """
    rows = all_rows(parts)
    columns, lines = list(dict.fromkeys(rows[across])), list(dict.fromkeys(rows[down])) if down else [None]
    values = [(line, column) for line in lines for column in columns]
    if down is None:
        wrapped = math.ceil(len(columns) / MAX_ACROSS)
        shape = wrapped, math.ceil(len(columns) / wrapped)
    else:
        shape = len(lines), len(columns)
    figure = new_figure(COLUMN_WIDTH if shape[1] <= 2 else PAGE_WIDTH, MARGIN + PANEL_HEIGHT * shape[0])
    panels = law_panels(figure, shape)
    seeds = set()
    for number, (panel, (line, column)) in enumerate(zip(panels, values, strict=False)):
        chosen = {name: value for name, value in ((down, line), (across, column)) if name}
        selected = {name: part.select(**chosen) for name, part in parts.items()}
        draw_curves(panel, drawn_parts(selected), name_rate=across != "learning_rate")
        names = [name_value(name, value) for name, value in chosen.items()]
        seeds.add(all_rows(selected)["seed"].nunique())
        title(panel[0], number if len(values) > 1 else None, ", ".join(names))
        if across == "view":
            panel[1].set_xlabel(column)
    if shape[1] <= 2:
        # In panels so narrow r and ρ need room above the marks.
        low, high = panels[0][0].get_ylim()
        panels[0][0].set_ylim(low, high * (high / low) ** 0.25)
    for above, panel in zip(panels[len(values) - shape[1] :], panels[len(values) :], strict=False):
        # What stands above an empty place is the last of its column.
        above[1].set_xlabel("layer")
        for axes in panel:
            axes.set_visible(False)
    legend_above(figure, [look for look, _ in drawn_parts(parts)], seeds, repeats=repeats)
    return figure


def law_panels(figure: Figure, shape: tuple[int, int], place: SubplotSpec | None = None) -> list[tuple[Axes, Axes]]:
    """Return panels for laws in rows and columns with common vertical axes, row by row, with their labels.

    place: in the figure; by default all of it.
    """
    # One grid for all, so that the panels of a row are of one height.
    ratios = {"height_ratios": LAW_HEIGHTS * shape[0]}
    rows, columns = 2 * shape[0], shape[1]
    grid = place.subgridspec(rows, columns, **ratios) if place else figure.add_gridspec(rows, columns, **ratios)
    panels: list[tuple[Axes, Axes]] = []
    for row in range(shape[0]):
        for column in range(columns):
            share = panels[0] if panels else None
            panels.append(law_panel(figure, grid[2 * row, column], grid[2 * row + 1, column], share))
            label_law(panels[-1], "" if column else "separation\nfuzziness D", last=row == shape[0] - 1)
    figure.align_ylabels([axes for panel in panels[::columns] for axes in panel])
    return panels


def label_law(panel: tuple[Axes, Axes], label: str, *, last: bool = True) -> None:
    """Label the axes of a panel of a row; those after the first, with '', have no labels at the common axis."""
    upper, lower = panel
    upper.set_ylabel(label)
    lower.set(ylabel="residual" if label else "", xlabel="layer" if last else "")
    if not label:
        for axes in panel:
            axes.tick_params(labelleft=False)


def title(axes: Axes, number: int | None, text: str, only: Look | None = None) -> None:
    """Give a panel its letter, by its number in the figure, and a title. only: the look of all that it shows, if one.

    A page on which one convention is chosen hides the panels of others.
    """
    if only is not None:
        tag(axes, only)
    letter = f"$\\mathbf{{{string.ascii_lowercase[number]}}}$  " if number is not None else ""
    axes.set_title(letter + text)


def legend_above(
    figure: Figure, looks: Iterable[Look], seeds: Iterable[int] = (), repeats: str = "seeds", **options: Any
) -> None:
    """Write above all panels what each colour and marker is, and the number of seeds, or of other ``repeats``."""
    handles = [mark(look) for look in looks]
    counts = set(seeds)
    if len(counts) == 1 and (count := counts.pop()) > 1:
        handles.append(Line2D([], [], linestyle="", label=f"n = {count} {repeats}"))
    elif counts:
        handles.append(Line2D([], [], linestyle="", label=f"n = {min(counts)} to {max(counts)} {repeats}"))
    place: dict[str, Any] = {"loc": "outside upper left", "ncols": len(handles) or 1, "columnspacing": 1.4} | options
    figure.legend(handles=handles, fontsize=7, **place)


def mark(look: Look, **options: Any) -> Line2D:
    """Return the mark of a look, for a legend."""
    style: dict[str, Any] = {"linestyle": "", "marker": look.marker, "color": look.colour, "label": look.label}
    return Line2D([], [], **(style | options))


def draw_against(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    look: Look,
    *,
    line: str = "-",
    offset: float = 0.0,
) -> None:
    """Draw the mean over seeds of a column against another, with dots for networks and 95 % t intervals.

    line: style of the line through the means, '' for none. offset: added to what is drawn.
    """
    usable = rows[rows[y].notna()]
    if usable.empty:
        return
    draw_dots(axes, usable[x], usable[y] + offset, look, usable["run"].tolist())
    grouped = usable.groupby(x)[y]
    found = [interval_over_seeds(group, correlations=y == "r") for _, group in grouped]
    places = np.array(list(grouped.groups), dtype=float)
    means, low, high = (np.array([getattr(one, name) for one in found]) + offset for name in ("mean", "low", "high"))
    if line:
        tag(axes.plot(places, means, line, color=look.colour, alpha=0.6, zorder=2)[0], look)
    # Without limits for a single seed.
    tag(axes.vlines(places, low, high, color=look.colour, linewidth=0.75, zorder=3), look)
    tag(axes.plot(places, means, look.marker, color=look.colour, markeredgewidth=0, zorder=4)[0], look)


def say_not_run(axes: Axes, text: str = "not run") -> None:
    """Write in an empty panel why it is empty."""
    axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color=CONTROL)
