"""D under every convention of measuring, and the floor that batches put under it, measured and predicted."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from equisep.analysis.figures.panels import of_height
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.plots import BLUE, GREEN, ORANGE, PINK

ORDERS = {"stored": BLUE, "shuffled": ORANGE, "stratified": GREEN}
PUBLISHED_SIZE = 100
RUNNING = "running statistics"


class ConventionsFigure(Reproduction):
    """The figure of all conventions together, which is drawn and judged once."""

    def parts(self, tables: Tables) -> dict[str, Tables]:
        """Return all tables as one part."""
        return {"all conventions": tables} if len(tables.runs) else {}


def select(rows: pd.DataFrame, batch_norm: str, order: str = "stored", size: int | None = None) -> pd.DataFrame:
    """Return the rows of one kind of statistics, order and batch size; by default of all sizes."""
    chosen = (rows["batch_norm"] == batch_norm) & (rows["order"] == order)
    return rows[chosen if size is None else chosen & (rows["batch_size"] == size)]


def floors(tables: Tables, rows: pd.DataFrame, order: str = "stored", size: int = PUBLISHED_SIZE) -> pd.DataFrame:
    """Return the floor by depth, seed and hidden layer: depth, seed, layer, batch, measured, predicted.

    measured: D with batch statistics less D with running statistics; predicted: the same for the statistics expected of
    the classes of each batch (:mod:`equisep.measures.expected_statistics`). batch: D with batch statistics.
    """
    columns = ["depth", "seed", "layer"]
    by_kind = {}
    for kind in ("batch", "running", "expected"):
        chosen = select(rows, kind, order, size)[["run", "convention", "depth", "seed"]]
        layers = tables.layers.merge(chosen, on=["run", "convention"])
        by_kind[kind] = layers[layers["layer"] > 0].set_index(columns)["D"]
    table = pd.DataFrame(by_kind).dropna()
    running = table["running"]
    floor = table.assign(measured=table["batch"] - running, predicted=table["expected"] - running)
    return floor[["batch", "measured", "predicted"]].reset_index()


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the claim's statistics by depth and seed, of the last layer as published.

    floor_ratio: predicted over measured; NaN where there is no floor, since running statistics lag behind in a network
    that has hardly been trained. floor_share: the measured floor over D.
    """
    found = floors(tables, rows)
    last = found[found["layer"] == found.groupby("depth")["layer"].transform("max")]
    return last.assign(
        floor_ratio=last["predicted"] / last["measured"].where(last["measured"] > 0),
        floor_share=last["measured"] / last["batch"],
    )


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return notes: the share of the floor in D of the last layer, and what the prediction misses."""
    notes = []
    shares = statistics(tables, rows).groupby("depth")["floor_share"].median()
    if len(shares):
        listed = ", ".join(f"{share:.0%} at depth {depth}".replace("-", "−") for depth, share in shares.items())
        notes.append(f"Share of the floor in D of the last layer as published, median over seeds: {listed}.")
    for order in ("shuffled", "stratified"):
        found = floors(tables, rows, order)
        last = found[found["layer"] == found.groupby("depth")["layer"].transform("max")]
        ratios = (last["predicted"] / last["measured"]).groupby(last["depth"]).median()
        if len(ratios):
            listed = ", ".join(f"{ratio:.2f}".replace("-", "−") for ratio in ratios)
            notes.append(f"Predicted over measured floor in {order} batches, by depth: {listed}.")
    return [
        *notes,
        "The prediction knows the classes of a batch, not its images: the floor from the choice of images within a "
        "class, all that stratified batches have, is missing from it.",
    ]


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw D per layer, D of the last layer and ρ against batch size, and the floors; a column per depth."""
    depths = sorted(set(rows["depth"]))
    panels = figure.subplots(4, len(depths), squeeze=False, sharey="row")
    for (layers, last, ratio, floor), depth in zip(panels.T, depths, strict=True):
        here = rows[rows["depth"] == depth]
        _draw_layers(layers, tables, here)
        layers.set(title=f"depth {depth}", xlabel="layer", yscale="log")
        for axes, column in ((last, "D_last"), (ratio, "decay_ratio")):
            _draw_sizes(axes, here, column)
            axes.set(xscale="log", xlabel="images in a batch")
        last.set_yscale("log")
        found = floors(tables, here)
        _draw_floors(floor, found)
        # A network that has hardly been trained has none, which a logarithmic axis cannot show.
        floor.set(xlabel="layer", yscale="log" if (found["measured"] > 0).any() else "linear")
        for axes in (layers, floor):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    labels = ("separation fuzziness D", "D of the last layer", "decay ratio ρ", "floor under D")
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
        axes.legend(fontsize="x-small", frameon=False)


def _draw_layers(axes: Axes, tables: Tables, rows: pd.DataFrame) -> None:
    style: dict[str, Any] = {"markersize": 3, "linewidth": 0.8}
    for order, colour in ORDERS.items():
        _median_curve(
            axes, tables, select(rows, "batch", order, PUBLISHED_SIZE), f"batches, {order}", colour, "o-", style
        )
    running = select(rows, "running", size=PUBLISHED_SIZE)
    _median_curve(axes, tables, running, RUNNING, "0.3", "s-", style)
    expected = select(rows, "expected", size=PUBLISHED_SIZE)
    _median_curve(axes, tables, expected, "predicted for stored", PINK, "--", style)


def _median_curve(
    axes: Axes, tables: Tables, rows: pd.DataFrame, label: str, colour: str, line: str, style: dict[str, Any]
) -> None:
    curves = tables.curves(rows)
    if curves:
        axes.plot(np.median(curves, axis=0), line, color=colour, label=label, **style)


def _draw_sizes(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw medians over seeds against batch size, by order, with the range; running statistics as a line."""
    for order, colour in ORDERS.items():
        spread = select(rows, "batch", order).groupby("batch_size")[column].agg(["median", "min", "max"])
        axes.plot(spread.index, spread["median"], "o-", color=colour, markersize=3, linewidth=0.8, label=order)
        axes.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.2, linewidth=0)
    running = select(rows, "running", size=PUBLISHED_SIZE)[column].median()
    axes.axhline(running, color="0.3", linewidth=0.8, linestyle=":", label=RUNNING)


def _draw_floors(axes: Axes, found: pd.DataFrame) -> None:
    """Draw medians over seeds of the floor in stored batches of 100, with the range."""
    for column, colour, line in (("measured", BLUE, "o"), ("predicted", PINK, "--")):
        spread = found.groupby("layer")[column].agg(["median", "min", "max"])
        axes.plot(spread.index, spread["median"], line, color=colour, markersize=3, linewidth=1, label=column)
        axes.vlines(spread.index, spread["min"], spread["max"], color=colour, linewidth=0.8, alpha=0.5)


REPRODUCTION = ConventionsFigure(
    "conventions",
    draw,
    of_height(9.0),
    ("depth", "batch_norm", "order", "batch_size"),
    statistics,
    remarks=remark,
    described=False,
)
