"""The definition of each figure, by the name of its experiment: drawing, conditions and statistics."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from equisep.analysis.claims import name_value
from equisep.analysis.experiments import column_of
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
from equisep.config import ConfigError, group_options, own_conf_folder, sweep_grid

# Learning rate of the published figures on networks without batch normalisation and on linear networks.
PUBLISHED_RATE_OF_NEGATIVE_RESULTS = 3e-5

# Fields that a sweep varies within a condition.
NOT_CONDITIONS = ("seed", "optimizer.learning_rate")

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


def reproduction_of(name: str) -> Reproduction | None:
    """Return the definition of an experiment's figure, of the user's own too; None for an unknown name."""
    if name in REPRODUCTIONS:
        return REPRODUCTIONS[name]
    return own_figure(name) if name in group_options()["experiment"] else None


def all_reproductions() -> dict[str, Reproduction]:
    """Return the definitions of all figures by experiment, ours first, then the user's own."""
    own = [name for name in group_options()["experiment"] if name not in REPRODUCTIONS]
    return REPRODUCTIONS | {name: own_figure(name) for name in own}


def own_figure(name: str) -> Reproduction:
    """Return the figure of an experiment of the user's: by the figure/NAME.yaml of the own folder, or by default.

    Keys, all optional: conditions, fields of the config that define a condition, by default those that the experiment
    sweeps over but for seed and learning rate; across and down, the fields of columns and rows of panels; shows, text
    for the caption. Raises ConfigError for an unknown key or field.
    """
    swept = {column_of(key): key for key in sweep_grid(name) if key not in NOT_CONDITIONS}
    own = own_conf_folder()
    path = own / "figure" / f"{name}.yaml" if own else None
    entry = _read_own(path) if path and path.is_file() else {}
    unknown = [key for key in entry if key not in ("conditions", "across", "down", "shows")]
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]}: no such key; use conditions, across, down or shows")
    conditions = tuple(column_of(str(key)) for key in entry.get("conditions", swept.values()))
    across, down = (column_of(str(entry[key])) if entry.get(key) else None for key in ("across", "down"))
    for column in (*conditions, *filter(None, (across, down))):
        if column not in (*swept, "learning_rate"):
            listed = ", ".join((*swept.values(), "optimizer.learning_rate"))
            raise ConfigError(f"{path}: {column}: {name} does not sweep over it; choose from {listed}")
    hidden = [swept[column] for column in conditions if column not in (across, down)]
    if across is not None and hidden:
        problem = f"conditions that share a panel: {', '.join(hidden)}"
        raise ConfigError(f"{path}: {problem}; name them in across and down, or leave both out for a panel each")
    if across is None and len(conditions) <= 2:
        across, down = (*reversed(conditions), None, None)[:2]

    def draw(parts: Parts) -> Figure:
        if across is not None or not conditions:
            return law_grid(parts, across or "learning_rate", down)
        # More than two conditions: a panel for each combination.
        named = {
            convention: Part(part.tables, part.rows.assign(condition=part.rows[list(conditions)].apply(_name, axis=1)))
            for convention, part in parts.items()
        }
        return law_grid(named, "condition")

    return Reproduction(name, draw, f"{entry.get('shows', '')} {LAWS}".strip(), conditions)


def _read_own(path: Path) -> dict[str, Any]:
    """Return the keys of a figure's file; raises ConfigError, in one line, for values of another kind."""
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: must map keys to values, such as across: architecture.depth")
    for key, value in entry.items():
        if key == "conditions" and not isinstance(value, list):
            raise ConfigError(f"{path}: {key}={value}: must be a list of fields, such as [architecture.depth]")
        if key != "conditions" and not isinstance(value, str | None):
            raise ConfigError(f"{path}: {key}={value}: must be one {'text' if key == 'shows' else 'field'}")
    return entry


def _name(row: pd.Series) -> str:
    return ", ".join(name_value(str(column), value) for column, value in row.items())


OVERVIEWS = {overview.name: overview for overview in (decay_ratio.OVERVIEW, test_accuracy.OVERVIEW)}
