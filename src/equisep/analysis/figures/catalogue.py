"""The definition of each figure, by the name of its experiment: drawing, conditions and statistics."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.figures import (
    channel_scale,
    controls,
    conventions,
    decay_ratio,
    depths,
    emergence,
    frozen,
    normalisation,
    out_of_sample,
    resnet_mixed,
    robustness,
    test_accuracy,
)
from equisep.analysis.figures.panels import LAWS, Part, Parts, law_grid
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

# Learning rate of the published figures on networks without batch normalisation and on linear networks.
PUBLISHED_RATE_OF_NEGATIVE_RESULTS = 3e-5

# What a condition's networks differ in, by the column that numbers them.
REPEATS = {"seed": "seeds", "subset_seed": "draws of images"}


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


def draw_best_and_published_rate(parts: Parts) -> Figure:
    """Draw a panel for the best learning rate and, if it differs, one for the published rate."""
    both = {
        name: at_best_and_published_rate(part.tables, part.rows).drop(columns="choice").drop_duplicates()
        for name, part in parts.items()
    }
    return law_grid({name: Part(parts[name].tables, rows) for name, rows in both.items()}, "learning_rate")


def grid(
    name: str,
    across: str,
    down: str | None = None,
    conditions: tuple[str, ...] | None = None,
    shows: str = "",
    **options: Any,
) -> Reproduction:
    """Return the reproduction with a panel for each value of one or two columns, by default its conditions."""

    def draw(parts: Parts) -> Figure:
        return law_grid(parts, across, down, REPEATS[options.get("repeats", "seed")])

    columns = tuple(filter(None, (down, across))) if conditions is None else conditions
    return Reproduction(name, draw, f"{shows} {LAWS}".strip(), columns, **options)


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
        grid(
            "subsets",
            "depth",
            "optimizer",
            ("depth", "optimizer"),
            shows="Networks of one seed on draws of the training images, which take the place of seeds.",
            repeats="subset_seed",
        ),
        emergence.REPRODUCTION,
        *(depths.reproduction(f"depth_{dataset}") for dataset in ("mnist", "fashion_mnist", "cifar10")),
        grid("learning_rate", "learning_rate"),
        grid("imbalance", "depth"),
        grid("width", "width"),
        grid("shape", "architecture"),
        grid("original_size", "depth", "dataset", published=PUBLISHED_ORIGINAL_SIZE),
        grid("no_batch_norm", "depth", published={(20,): PUBLISHED_RATE_OF_NEGATIVE_RESULTS}),
        Reproduction(
            "linear",
            draw_best_and_published_rate,
            f"At the best and the published learning rate. {LAWS}",
            statistics=at_best_and_published_rate,
            published={(): PUBLISHED_RATE_OF_NEGATIVE_RESULTS},
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
        channel_scale.REPRODUCTION,
        conventions.REPRODUCTION,
        normalisation.REPRODUCTION,
    )
}
OVERVIEWS = {overview.name: overview for overview in (decay_ratio.OVERVIEW, test_accuracy.OVERVIEW)}
