"""The definition of each figure, by the name of its experiment: drawing, conditions and statistics."""

import math
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.figures import (
    controls,
    decay_ratio,
    emergence,
    frozen,
    out_of_sample,
    resnet_mixed,
    robustness,
    test_accuracy,
)
from equisep.analysis.figures.panels import depth_figure, law_grid
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

# Learning rate of the published figures on networks without batch normalisation and on linear networks.
PUBLISHED_RATE_OF_NEGATIVE_RESULTS = 3e-5


def rise_beyond_best_depth(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed ``rise``: last-layer D of the deepest network over that of the network of the best depth, minus 1.

    ``best_depth`` is the depth with the lowest median over seeds. NaN if the deepest network diverged.
    """
    last = rows.set_index(["seed", "depth"])["D_last"].unstack()
    if last.median().isna().all():
        return pd.DataFrame({"seed": last.index, "rise": math.nan, "best_depth": math.nan})
    best = last.median().idxmin()
    return pd.DataFrame({"rise": last[last.columns.max()] / last[best] - 1, "best_depth": best}).reset_index()


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


def draw_best_and_published_rate(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return a figure with a panel for the best learning rate and, if it differs, one for the published rate."""
    both = at_best_and_published_rate(tables, rows).drop(columns="choice").drop_duplicates()
    return law_grid(tables, both, "learning_rate")


def grid(across: str, down: str | None = None) -> Callable[[Tables, pd.DataFrame], Figure]:
    """Return a function that draws a panel with its law for each value of one or two columns."""
    return lambda tables, rows: law_grid(tables, rows, across, down)


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
        Reproduction("optimizers", grid("depth", "optimizer"), ("depth", "optimizer")),
        emergence.REPRODUCTION,
        *(
            Reproduction(f"depth_{dataset}", depth_figure, ("depth",), rise_beyond_best_depth)
            for dataset in ("mnist", "fashion_mnist", "cifar10")
        ),
        Reproduction("learning_rate", grid("learning_rate"), ("learning_rate",)),
        Reproduction("imbalance", grid("depth"), ("depth",)),
        Reproduction("width", grid("width"), ("width",)),
        Reproduction("shape", grid("architecture"), ("architecture",)),
        Reproduction(
            "original_size", grid("depth", "dataset"), ("dataset", "depth"), published=PUBLISHED_ORIGINAL_SIZE
        ),
        *(
            Reproduction(
                name,
                draw_best_and_published_rate,
                statistics=at_best_and_published_rate,
                published={(): PUBLISHED_RATE_OF_NEGATIVE_RESULTS},
            )
            for name in ("no_batch_norm", "linear")
        ),
        Reproduction("vgg13", grid("dataset"), ("dataset",)),
        Reproduction("alexnet", grid("dataset"), ("dataset",)),
        Reproduction("resnet_two_layer", grid("view"), statistics=compare_views),
        Reproduction("resnet_three_layer", grid("view"), statistics=compare_views),
        resnet_mixed.REPRODUCTION,
        Reproduction("densenet", grid("view", "dataset"), ("dataset",), per_block),
        frozen.REPRODUCTION,
        robustness.REPRODUCTION,
        out_of_sample.REPRODUCTION,
        controls.REPRODUCTION,
    )
}
OVERVIEWS = {overview.name: overview for overview in (decay_ratio.OVERVIEW, test_accuracy.OVERVIEW)}
