"""The definition of each figure, by the name of its experiment: drawing, conditions and statistics."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import FigureBase

from equisep.analysis.figures import (
    controls,
    conventions,
    decay_ratio,
    emergence,
    frozen,
    normalisation,
    out_of_sample,
    resnet_mixed,
    robustness,
    test_accuracy,
)
from equisep.analysis.figures.panels import draw_depths, grid_size, law_grid, of_height
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import rise_beyond_chosen_depth
from equisep.analysis.tables import Tables

# Learning rate of the published figures on networks without batch normalisation and on linear networks.
PUBLISHED_RATE_OF_NEGATIVE_RESULTS = 3e-5


def rise_beyond_best_depth(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed ``rise``: last-layer D of the deepest network over that of the network of the best depth, minus 1.

    The best depth is that of the other half of the seeds. NaN if one of a seed's networks diverged.
    """
    last = rows.set_index(["seed", "depth"])["D_last"].unstack()
    usable = last.dropna()
    rises = pd.Series(math.nan, index=last.index)
    if len(usable) > 1:
        rises[usable.index] = rise_beyond_chosen_depth(usable.to_numpy())
    return pd.DataFrame({"seed": last.index, "rise": rises.to_numpy()})


def compare_views(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the statistics per block and per layer, and ``residual_excess``: per layer minus per block."""
    block, layer = (rows[rows["view"] == view] for view in ("block", "layer"))
    both = block.merge(layer, on="seed", suffixes=("_block", "_layer"))
    return both.assign(residual_excess=both["relative_residual_layer"] - both["relative_residual_block"])


def at_best_and_published_rate(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows shown and those at the published rate, distinguished by ``choice``."""
    published = tables.runs[tables.runs["learning_rate"] == PUBLISHED_RATE_OF_NEGATIVE_RESULTS]
    return pd.concat([rows.assign(choice="best rate"), published.assign(choice="published rate")])


def per_block(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the block view, which the claim is about."""
    return rows[rows["view"] == "block"]


def draw_best_and_published_rate(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw a panel for the best learning rate and, if it differs, one for the published rate."""
    both = at_best_and_published_rate(tables, rows).drop(columns="choice").drop_duplicates()
    law_grid(figure, tables, both, "learning_rate")


def grid(
    name: str, across: str, down: str | None = None, conditions: tuple[str, ...] | None = None, **options: Any
) -> Reproduction:
    """Return the reproduction with a panel for each value of one or two columns, by default its conditions."""

    def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
        law_grid(figure, tables, rows, across, down)

    columns = tuple(filter(None, (down, across))) if conditions is None else conditions
    return Reproduction(name, draw, lambda rows: grid_size(rows, across, down), columns, **options)


PUBLISHED_ORIGINAL_SIZE = {
    ("fashion_mnist_32x32", 4): 1e-4,
    ("fashion_mnist_32x32", 8): 1e-4,
    ("fashion_mnist_32x32", 20): 3e-5,
    ("cifar10_32x32", 4): 1e-4,
    ("cifar10_32x32", 8): 3e-4,
    ("cifar10_32x32", 20): 3e-5,
}

# Experiments with their own drawing are defined in the file named after them.
REPRODUCTIONS: dict[str, Reproduction] = {
    reproduction.name: reproduction
    for reproduction in (
        grid("optimizers", "depth", "optimizer", ("depth", "optimizer")),
        emergence.REPRODUCTION,
        *(
            Reproduction(f"depth_{dataset}", draw_depths, of_height(2.8), ("depth",), rise_beyond_best_depth)
            for dataset in ("mnist", "fashion_mnist", "cifar10")
        ),
        grid("learning_rate", "learning_rate"),
        grid("imbalance", "depth"),
        grid("width", "width"),
        grid("shape", "architecture"),
        grid("original_size", "depth", "dataset", published=PUBLISHED_ORIGINAL_SIZE),
        *(
            Reproduction(
                name,
                draw_best_and_published_rate,
                of_height(2.8),
                statistics=at_best_and_published_rate,
                published={(): PUBLISHED_RATE_OF_NEGATIVE_RESULTS},
            )
            for name in ("no_batch_norm", "linear")
        ),
        grid("vgg13", "dataset"),
        grid("alexnet", "dataset"),
        grid("resnet_two_layer", "view", conditions=(), statistics=compare_views),
        grid("resnet_three_layer", "view", conditions=(), statistics=compare_views),
        resnet_mixed.REPRODUCTION,
        grid("densenet", "view", "dataset", ("dataset",), statistics=per_block),
        frozen.REPRODUCTION,
        robustness.REPRODUCTION,
        out_of_sample.REPRODUCTION,
        controls.REPRODUCTION,
        grid("random_labels", "depth", "dataset"),
        conventions.REPRODUCTION,
        normalisation.REPRODUCTION,
    )
}
OVERVIEWS = {overview.name: overview for overview in (decay_ratio.OVERVIEW, test_accuracy.OVERVIEW)}
