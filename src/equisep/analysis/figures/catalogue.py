"""What each figure is: its kind, rows, columns, conditions and statistics, by the name of its experiment."""

import math
import sys
from collections.abc import Callable
from typing import NoReturn

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
from equisep.analysis.overview import Overview
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

# Of the published figures on networks without batch normalisation and on linear networks.
PUBLISHED_NEGATIVE_RATE = 3e-5


def rise_beyond_best_depth(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed ``rise``: D of the deepest network's last layer over that of the best depth, less 1.

    The best depth is the one with the lowest median over seeds; ``best_depth`` tells it. NaN where the
    deepest network diverged.
    """
    last = rows.set_index(["seed", "depth"])["D_last"].unstack()
    if last.median().isna().all():
        return pd.DataFrame({"seed": last.index, "rise": math.nan, "best_depth": math.nan})
    best = last.median().idxmin()
    return pd.DataFrame({"rise": last[last.columns.max()] / last[best] - 1, "best_depth": best}).reset_index()


def compare_views(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the statistics per block and per layer, and ``residual_excess``: how much worse layers fit."""
    block, layer = (rows[rows["view"] == view] for view in ("block", "layer"))
    both = block.merge(layer, on="seed", suffixes=("_block", "_layer"))
    return both.assign(residual_excess=both["relative_residual_layer"] - both["relative_residual_block"])


def at_best_and_published_rate(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows shown and those at the published rate, told apart by ``choice``."""
    published = tables.runs[tables.runs["learning_rate"] == PUBLISHED_NEGATIVE_RATE]
    return pd.concat([rows.assign(choice="best rate"), published.assign(choice="published rate")])


def per_block(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose points are blocks: what the claim is about."""
    return rows[rows["view"] == "block"]


def draw_best_and_published_rate(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return a figure with a panel for the best learning rate, and one for the published one where that is another."""
    both = at_best_and_published_rate(tables, rows).drop(columns="choice").drop_duplicates()
    return law_grid(tables, both, "learning_rate")


def draw_depth(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure of the last layer's D, decay ratio and test accuracy against depth."""
    return depth_figure(rows)


def grid(across: str, down: str | None = None) -> Callable[[Tables, pd.DataFrame], Figure]:
    """Return what draws a panel for each value of one or two columns, each with its law."""
    return lambda tables, rows: law_grid(tables, rows, across, down)


PUBLISHED_ORIGINAL_SIZE = {
    ("fashion_mnist_32x32", 4): 1e-4,
    ("fashion_mnist_32x32", 8): 1e-4,
    ("fashion_mnist_32x32", 20): 3e-5,
    ("cifar10_32x32", 4): 1e-4,
    ("cifar10_32x32", 8): 3e-4,
    ("cifar10_32x32", 20): 3e-5,
}

# An experiment that is no row of this table has its own drawing, in the file of its name.
REPRODUCTIONS: dict[str, Reproduction] = {
    reproduction.name: reproduction
    for reproduction in (
        Reproduction("optimizers", grid("depth", "optimizer"), ("depth", "optimizer")),
        emergence.REPRODUCTION,
        Reproduction("depth_mnist", draw_depth, ("depth",), rise_beyond_best_depth),
        Reproduction("depth_fashion_mnist", draw_depth, ("depth",), rise_beyond_best_depth),
        Reproduction("depth_cifar10", draw_depth, ("depth",), rise_beyond_best_depth),
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
                published={(): PUBLISHED_NEGATIVE_RATE},
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
OVERVIEWS: dict[str, Overview] = {
    overview.name: overview for overview in (decay_ratio.OVERVIEW, test_accuracy.OVERVIEW)
}


def run_script(name: str) -> NoReturn:
    """Run the script of a figure with the arguments of the command line, and exit."""
    figures: dict[str, Reproduction | Overview] = {**REPRODUCTIONS, **OVERVIEWS}
    sys.exit(figures[name].main(sys.argv[1:]))
