"""Log D against layer and block of a residual network of two kinds of blocks: a law for each half."""

import math

import pandas as pd
from matplotlib.figure import FigureBase

from equisep.analysis.figures.panels import draw_rows, of_height, panel_title
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.measures import fit_law

# Layers: the three-layer blocks end at layer 6, shared by both lines. Blocks: our choice, the released script fails.
SEGMENTS = {"layer": ((0, 6), (6, 10)), "block": ((0, 2), (2, 4))}


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the figure: layers and blocks, each with two segments."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (view, segments) in zip(panels, SEGMENTS.items(), strict=True):
        selected = rows[rows["view"] == view]
        draw_rows(axes, tables, selected, segments)
        axes.set_title(panel_title(f"per {view}", selected), fontsize="small")
        axes.set_xlabel(view)
    panels[0].set_ylabel("separation fuzziness D")


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


REPRODUCTION = Reproduction("resnet_mixed", draw, of_height(3.0), statistics=law_of_halves)
