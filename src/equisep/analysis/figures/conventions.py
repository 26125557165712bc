"""D under every convention of measuring, and the floor that batches put under it, measured and predicted."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from equisep.analysis.figures.panels import Part, Parts, legend_above, say_not_run, title
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables
from equisep.plots import (
    CONVENTIONS,
    EVALUATION,
    PAGE_WIDTH,
    PAPER,
    PREDICTED,
    Look,
    draw_dots,
    new_figure,
    use_log_scale,
)

ORDERS = {"stored": PAPER, "shuffled": CONVENTIONS["shuffled"], "stratified": CONVENTIONS["stratified"]}
PUBLISHED_SIZE = 100


class ConventionsFigure(Reproduction):
    """The figure of all conventions together, which is drawn and judged once."""

    def parts(self, tables: Tables) -> dict[str, Part]:
        """Return all tables as one part."""
        return {"all conventions": Part(tables, self.shown(tables))} if len(tables.runs) else {}


def layers_at_published_size(tables: Tables) -> pd.DataFrame:
    """Return D per layer in batches of the published size, which the panels show."""
    shown = set(tables.runs.loc[tables.runs["batch_size"] == PUBLISHED_SIZE, "convention"])
    return tables.layers[tables.layers["convention"].isin(shown)]


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


def draw(parts: Parts) -> Figure:
    """Draw D per layer, D of the last layer and ρ against batch size, and the floors; a column per depth."""
    (part,) = parts.values()
    tables, rows = part.tables, part.rows
    depths = sorted(set(rows["depth"]))
    figure = new_figure(PAGE_WIDTH, 170)
    panels = figure.subplots(4, len(depths), squeeze=False, sharey="row")
    for column, (below, depth) in enumerate(zip(panels.T, depths, strict=True)):
        layers, last, ratio, floor = below
        here = rows[rows["depth"] == depth]
        sizes = sorted(set(here["batch_size"]))
        _draw_layers(layers, tables, here)
        found = floors(tables, here)
        _draw_floors(floor, found)
        for axes, statistic in ((last, "D_last"), (ratio, "decay_ratio")):
            _draw_sizes(axes, here, statistic)
            axes.set_xlabel("images in a batch")
        for axes in (layers, floor):
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        empty = {axes for axes in below if not np.isfinite(axes.dataLim.get_points()).all()}
        for axes in empty:
            say_not_run(axes, "not measured")
        for axes in {last, ratio} - empty:
            use_log_scale(axes, "x")
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
        # A network that has hardly been trained has no floor, which a logarithmic axis cannot show.
        for axes in {layers, last, *([floor] if (found["measured"] > 0).any() else [])} - empty:
            use_log_scale(axes)
        for row, axes in enumerate(below):
            title(axes, row * len(depths) + column, f"depth {depth:g}")
    labels = ("separation fuzziness D", "D of the last layer", "decay ratio ρ", "floor under D")
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    figure.align_ylabels(panels[:, 0])
    looks = {
        ("batch", "stored"): Look("as published (stored order)", PAPER.colour, PAPER.marker),
        ("batch", "shuffled"): CONVENTIONS["shuffled"],
        ("batch", "stratified"): CONVENTIONS["stratified"],
        ("running", "stored"): EVALUATION,
        ("expected", "stored"): PREDICTED,
    }
    there = set(zip(rows["batch_norm"], rows["order"], strict=True))
    legend_above(figure, [look for kind, look in looks.items() if kind in there], {rows["seed"].nunique()})
    return figure


def _draw_layers(axes: Axes, tables: Tables, rows: pd.DataFrame) -> None:
    for order, look in ORDERS.items():
        _mean_curve(axes, tables, select(rows, "batch", order, PUBLISHED_SIZE), look, "-")
    _mean_curve(axes, tables, select(rows, "running", size=PUBLISHED_SIZE), EVALUATION, "-")
    _mean_curve(axes, tables, select(rows, "expected", size=PUBLISHED_SIZE), PREDICTED, "--")


def _mean_curve(axes: Axes, tables: Tables, rows: pd.DataFrame, look: Look, line: str) -> None:
    curves = tables.curves(rows)
    if curves:
        means = np.exp(np.log(curves).mean(axis=0))
        axes.plot(means, line, color=look.colour, marker=look.marker, markersize=2.5, markeredgewidth=0)


def _draw_sizes(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw means over seeds against batch size, by order, with the networks; running statistics as a line."""
    for order, look in ORDERS.items():
        chosen = select(rows, "batch", order)
        means = _means(chosen, "batch_size", column)
        axes.plot(means.index, means, color=look.colour, marker=look.marker, markeredgewidth=0)
        draw_dots(axes, chosen["batch_size"], chosen[column], look, chosen["run"].tolist())
    running = _means(select(rows, "running", size=PUBLISHED_SIZE), "batch_size", column)
    for value in running:
        axes.axhline(value, color=EVALUATION.colour, linewidth=0.75)


def _means(rows: pd.DataFrame, by: str, column: str) -> pd.Series:
    """Return means over seeds, of D geometric ones."""
    if column == "decay_ratio":
        return rows.groupby(by)[column].mean()
    means: pd.Series = np.exp(np.log(rows[column]).groupby(rows[by]).mean())
    return means


def _draw_floors(axes: Axes, found: pd.DataFrame) -> None:
    """Draw means over seeds of the floor in stored batches of 100, with the networks."""
    for column, look, line in (("measured", PAPER, "-"), ("predicted", PREDICTED, "--")):
        means = found.groupby("layer")[column].mean()
        axes.plot(means.index, means, line, color=look.colour, marker=look.marker, markersize=2.5, markeredgewidth=0)
        draw_dots(axes, found["layer"], found[column], look)


SHOWS = (
    "First row: D per layer in batches of 100; predicted is D in evaluation mode with the statistics that the "
    "classes of the batches make expected. Second and third row: D of the last layer and ρ against the size of the "
    "batches; the line is evaluation mode. Last row: the floor, D as published less D in evaluation mode, and the "
    "predicted one; floors that are not positive are not drawn. Means over seeds (of D geometric); dots: networks, "
    "from the second row on."
)
REPRODUCTION = ConventionsFigure(
    "conventions",
    draw,
    SHOWS,
    ("depth", "batch_norm", "order", "batch_size"),
    statistics,
    remarks=remark,
    described=False,
    kept_layers=layers_at_published_size,
)
