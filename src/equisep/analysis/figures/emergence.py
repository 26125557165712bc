"""The law through training: log D against layer at three epochs, its surface over layer and epoch, r and ρ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from equisep.analysis.claims import name_value
from equisep.analysis.experiments import every_snapshot, expand_experiment
from equisep.analysis.figures.panels import (
    LAWS,
    Part,
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
from equisep.analysis.statistics import interval_over_seeds, rank_correlation
from equisep.analysis.tables import Tables
from equisep.plots import LIGHT, PAGE_WIDTH, new_figure, use_log_scale

SHOWS = (
    f"{LAWS} Then r (as 1 + r) and ρ against the epoch, means over seeds with 95 % intervals. Lowest rows: means "
    "over seeds of log D, and of −log ρ of each layer over its mean at the end, against layer and epoch (a column "
    "per snapshot; colours of the latter end at its 2 % and 98 % points). Vertical lines: drops of the learning rate."
)
# Quantiles at which the colours of the two maps end.
BOUNDS = ((0, 1), (0.02, 0.98))
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")


def shown_epochs(epochs: list[int]) -> list[int]:
    """Return the first and last epoch and the one in the middle of the snapshots."""
    return sorted({epochs[0], epochs[len(epochs) // 2], epochs[-1]})


def draw(parts: Parts) -> Figure:
    """Draw the figure: a row of laws per depth, r and ρ against the epoch, and the surface of log D."""
    rows = all_rows(parts)
    depths, epochs = sorted(set(rows["depth"])), shown_epochs(sorted(set(rows["epoch"])))
    heights = (42 * len(depths), 38, 66)
    figure = new_figure(PAGE_WIDTH, 10 + sum(heights))
    outer = figure.add_gridspec(3, 1, height_ratios=heights)
    panels = law_panels(figure, (len(depths), len(epochs)), outer[0])
    places = [(depth, epoch) for depth in depths for epoch in epochs]
    for number, (panel, (depth, epoch)) in enumerate(zip(panels, places, strict=True)):
        selected = {name: part.select(depth=depth, epoch=epoch) for name, part in parts.items()}
        draw_curves(panel, drawn_parts(selected))
        title(panel[0], number, f"{name_value('depth', depth)}, epoch {epoch}")
    lower = outer[1].subgridspec(1, 2)
    training = expand_experiment("emergence")[0].config.training
    drops = [epoch for epoch in training.milestones if training.epochs == epochs[-1]]
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
        for epoch in drops:
            axes.axvline(epoch, color=LIGHT, linewidth=0.5, zorder=0)
        lines = zip(depths, STYLES, strict=False)
        style: dict[str, Any] = {"color": "black"}
        handles = [Line2D([], [], linestyle=line, label=f"depth {depth:g}", **style) for depth, line in lines]
        # Above the lines of the drops.
        axes.legend(handles=handles, loc="upper right", handlelength=2, frameon=True, framealpha=1, edgecolor="none")
        title(axes, len(places) + number, "")
    _draw_surfaces(figure, outer[2], parts, depths, drops, len(places) + len(columns))
    legend_above(figure, [look for look, _ in drawn_parts(parts)], {rows["seed"].nunique()})
    return figure


def log_curves(part: Part) -> tuple[NDArray[np.float64], list[int]]:
    """Return (networks, epochs, layers) of log D, the input first, of networks of one depth, and the epochs."""
    usable = part.rows[part.rows["r"].notna()]
    epochs = sorted(set(part.rows["epoch"]))
    whole = usable.groupby("run").filter(lambda run: len(run) == len(epochs)).sort_values(["run", "epoch"])
    curves = np.log(part.tables.curves(whole)) if len(whole) else np.empty((0, 1))
    return curves.reshape(-1, len(epochs), curves.shape[-1]), epochs


def _draw_surfaces(
    figure: Figure, place: SubplotSpec, parts: Parts, depths: Sequence[int], drops: Sequence[int], first: int
) -> None:
    """Draw maps over epoch and layer, of log D and of −log ρ over its final mean, for each depth and convention."""
    candidates = [(depth, look, part.select(depth=depth)) for depth in depths for look, part in drawn_parts(parts)]
    drawn = [candidate for candidate in candidates if len(log_curves(candidate[2])[0])]
    if not drawn:
        return
    grid = place.subgridspec(2, len(drawn) + 1, width_ratios=[*[1] * len(drawn), 0.05])
    labels = ("log D", "−log ρ / final mean")
    maps: list[list[NDArray[np.float64]]] = [[], []]
    for _, _, part in drawn:
        mean = log_curves(part)[0].mean(axis=0)
        maps[0].append(mean.T)
        shares = -np.diff(mean, axis=1)
        maps[1].append((shares / shares[-1].mean()).T)
    for row, (label, values) in enumerate(zip(labels, maps, strict=True)):
        # Of shares, without the few largest: one layer's would leave no difference between the others.
        low, high = np.quantile(np.concatenate([one.ravel() for one in values]), BOUNDS[row])
        bar = figure.add_subplot(grid[row, -1])
        for column, ((depth, look, part), one) in enumerate(zip(drawn, values, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            epochs = sorted(set(part.rows["epoch"]))
            frame = pd.DataFrame(one, index=range(row, row + len(one)), columns=epochs).iloc[::-1]
            colours: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high, "cbar_ax": bar}
            every = max(1, len(one) // 5)
            sns.heatmap(frame, ax=axes, cbar=column == 0, xticklabels=2, yticklabels=every, **colours)
            for drop in drops:
                axes.axvline(sum(epoch <= drop for epoch in epochs), color="white", linewidth=0.75)
            axes.tick_params(length=2, rotation=0)
            axes.set(xlabel="epoch", ylabel="" if column else "layer")
            title(axes, first + row * len(drawn) + column, f"depth {depth:g}, {look.label}", only=look)
        bar.set_ylabel(label)


def half_share_epochs(curves: NDArray[np.float64], epochs: Sequence[int]) -> NDArray[np.float64]:
    """Return for each hidden layer the epoch at which −log ρ first reaches half of its value at the end.

    curves: (epochs, layers) of log D. Interpolated linearly between snapshots; NaN where the value at the end is not
    positive.
    """
    shares = -np.diff(curves, axis=1)
    reached = np.full(shares.shape[1], np.nan)
    for layer, share in enumerate(shares.T):
        half = share[-1] / 2
        if half <= 0:
            continue
        after = int(np.argmax(share >= half))
        before = max(after - 1, 0)
        step = share[after] - share[before]
        part = (half - share[before]) / step if after else 0.0
        reached[layer] = epochs[before] + part * (epochs[after] - epochs[before])
    return reached


def describe_order(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return a note on the order in which layers take up their share of the fall of log D."""
    notes = []
    for depth in sorted(set(rows["depth"])):
        curves, epochs = log_curves(Part(tables, rows[rows["depth"] == depth]))
        if len(curves) < 2 or len(epochs) < 3:
            continue
        reached = np.array([half_share_epochs(curve, epochs) for curve in curves])
        found = interval_over_seeds([rank_correlation(np.arange(len(one)), one) for one in reached], correlations=True)
        thirds = [np.nanmedian(third) for third in np.array_split(reached, 3, axis=1)]
        spread = f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", "−")
        listed = ", ".join(f"{one:.0f}" for one in thirds)
        notes.append(
            f"Depth {depth:g}: layers reach half of their final −log ρ at epoch {listed} (first, middle, last third, "
            f"medians over seeds); rank correlation with the layer's place {spread}, n = {found.n}."
        )
    return notes


def compare_first_and_last(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics at the first and the last epoch, by depth and seed."""
    first, last = (rows[rows["epoch"] == epoch] for epoch in (rows["epoch"].min(), rows["epoch"].max()))
    both: pd.DataFrame = first.merge(last, on=["depth", "seed"], suffixes=("_first", "_last"))
    return both


REPRODUCTION = Reproduction(
    "emergence", draw, SHOWS, ("depth",), compare_first_and_last, every_snapshot, remarks=describe_order
)
