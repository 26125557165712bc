"""Log D against layer and block of a residual network of two kinds of blocks: a law for each half."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from equisep.analysis.figures.panels import LAWS, Parts, draw_curves, drawn_parts, law_panels, legend_above, title
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.measures import fit_law
from equisep.plots import PAGE_WIDTH, new_figure

# Layers: the three-layer blocks end at layer 6, shared by both lines. Blocks: our choice, the released script fails.
SEGMENTS = {"layer": ((0, 6), (6, 10)), "block": ((0, 2), (2, 4))}

SHOWS = f"{LAWS} Here the line is broken where the kinds of blocks meet; ρ is that of each half's own law."


def broken_line(logarithms: NDArray[np.float64], corner: int) -> NDArray[np.float64]:
    """Return the least-squares fit of two lines that meet at a layer. logarithms: (layers,) of log D."""
    layers = np.arange(len(logarithms))
    design = np.column_stack([np.ones(len(layers)), layers, np.maximum(layers - corner, 0)])
    return np.asarray(design @ np.linalg.lstsq(design, logarithms, rcond=None)[0])


def draw(parts: Parts) -> Figure:
    """Draw the figure: layers and blocks, each with two lines that meet."""
    figure = new_figure(PAGE_WIDTH, 62)
    for number, (panel, (view, segments)) in enumerate(zip(law_panels(figure, (1, 2)), SEGMENTS.items(), strict=True)):
        selected = {name: part.select(view=view) for name, part in parts.items()}
        corner = segments[0][1]

        def describe(curves: Sequence[Sequence[float]], segments: Sequence[tuple[int, int]] = segments) -> str:
            halves = [[fit_law(curve[first : last + 1]) for curve in curves] for first, last in segments]
            ratios = [np.mean([law.decay_ratio for law in laws]) for laws in halves]
            return "ρ " + ", then ".join(f"{ratio:.3f}" for ratio in ratios)

        draw_curves(panel, drawn_parts(selected), partial(broken_line, corner=corner), describe)
        panel[1].set_xlabel(view)
        title(panel[0], number, f"per {view}")
    rows = next(iter(parts.values())).rows
    legend_above(figure, [look for look, _ in drawn_parts(parts)], {rows["seed"].nunique()})
    return figure


def law_of_halves(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return r of each half and the absolute difference of their log ρ, by seed, in the layer view."""
    halves_by_seed = []
    points = {
        f"points_{name}_half": last - first + 1
        for name, (first, last) in zip(("first", "second"), SEGMENTS["layer"], strict=True)
    }
    for row in rows[rows["view"] == "layer"].to_dict("records"):
        r_first = r_second = gap = math.nan
        if not math.isnan(row["r"]):
            curve = tables.fuzziness(row)
            halves = [fit_law(curve[first : last + 1]) for first, last in SEGMENTS["layer"]]
            r_first, r_second = (law.pearson_r for law in halves)
            gap = abs(math.log(halves[0].decay_ratio / halves[1].decay_ratio))
        halves_by_seed.append(
            {"seed": row["seed"], "r_first_half": r_first, "r_second_half": r_second, "ratio_gap": gap} | points
        )
    return pd.DataFrame(halves_by_seed)


REPRODUCTION = Reproduction("resnet_mixed", draw, SHOWS, statistics=law_of_halves)
