"""The law through training: log D against layer at three epochs, r and ρ at every snapshot; depth 8 and 20, Adam."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equisep.analysis.claims import name_value
from equisep.analysis.experiments import every_snapshot, expand_experiment
from equisep.analysis.figures.panels import (
    LAWS,
    Parts,
    all_rows,
    draw_against,
    draw_curves,
    drawn_parts,
    law_panels,
    legend_above,
    title,
)
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.plots import LIGHT, PAGE_WIDTH, new_figure, use_log_scale

SHOWS = (
    f"{LAWS} Lowest row: 1 + r and ρ against the epoch (means over seeds with 95 % intervals); grey lines: drops of "
    "the learning rate."
)
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")


def shown_epochs(epochs: list[int]) -> list[int]:
    """Return the first and last epoch and the one in the middle of the snapshots."""
    return sorted({epochs[0], epochs[len(epochs) // 2], epochs[-1]})


def draw(parts: Parts) -> Figure:
    """Draw the figure: a row of laws per depth, then r and ρ against the epoch."""
    rows = all_rows(parts)
    depths, epochs = sorted(set(rows["depth"])), shown_epochs(sorted(set(rows["epoch"])))
    figure = new_figure(PAGE_WIDTH, 14 + 48 * len(depths) + 44)
    outer = figure.add_gridspec(2, 1, height_ratios=(48 * len(depths), 44))
    panels = law_panels(figure, (len(depths), len(epochs)), outer[0].subgridspec(len(depths), len(epochs)))
    places = [(depth, epoch) for depth in depths for epoch in epochs]
    for number, (panel, (depth, epoch)) in enumerate(zip(panels, places, strict=True)):
        selected = {name: part.select(depth=depth, epoch=epoch) for name, part in parts.items()}
        draw_curves(panel, drawn_parts(selected))
        title(panel[0], number, f"{name_value('depth', depth)}, epoch {epoch}")
    lower = outer[1].subgridspec(1, 2)
    training = expand_experiment("emergence")[0].config.training
    columns = (("r", "1 + r", 1.0), ("decay_ratio", "decay ratio ρ", 0.0))
    for number, (column, label, offset) in enumerate(columns):
        axes = figure.add_subplot(lower[number])
        for look, part in drawn_parts(parts):
            for depth, line in zip(depths, STYLES, strict=False):
                draw_against(axes, part.select(depth=depth).rows, "epoch", column, look, line=line, offset=offset)
        if column == "r":
            use_log_scale(axes)
        axes.set_xscale("symlog", linthresh=10, linscale=0.5)
        ticks = sorted({*(epoch for epoch in set(rows["epoch"]) if epoch >= 50), 0, 10})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="epoch", ylabel=label, xlim=(-1, None))
        for epoch in training.milestones if training.epochs == epochs[-1] else ():
            axes.axvline(epoch, color=LIGHT, linewidth=0.5, zorder=0)
        lines = zip(depths, STYLES, strict=False)
        style: dict[str, Any] = {"color": "black"}
        handles = [Line2D([], [], linestyle=line, label=f"depth {depth:g}", **style) for depth, line in lines]
        axes.legend(handles=handles, loc="upper right", handlelength=2)
        title(axes, len(places) + number, label)
    legend_above(figure, [look for look, _ in drawn_parts(parts)], {rows["seed"].nunique()})
    return figure


def compare_first_and_last(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics at the first and the last epoch, by depth and seed."""
    first, last = (rows[rows["epoch"] == epoch] for epoch in (rows["epoch"].min(), rows["epoch"].max()))
    both: pd.DataFrame = first.merge(last, on=["depth", "seed"], suffixes=("_first", "_last"))
    return both


REPRODUCTION = Reproduction("emergence", draw, SHOWS, ("depth",), compare_first_and_last, every_snapshot)
