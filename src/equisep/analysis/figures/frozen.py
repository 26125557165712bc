"""Two-stage against joint training: D per layer and test accuracy, CIFAR-10 10×10, depth 20."""

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import (
    LAWS,
    Part,
    Parts,
    draw_against,
    draw_curves,
    drawn_parts,
    law_panels,
    legend_above,
    title,
)
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import interval_over_seeds
from equisep.analysis.tables import Tables
from equisep.plots import CONTROL, PAGE_WIDTH, Look, new_figure

MODES = ("joint", "two-stage")


def by_mode(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of jointly trained networks, and of those trained in two stages."""
    frozen = rows["training"].str.startswith("frozen")
    return rows[~frozen], rows[frozen]


def draw(parts: Parts) -> Figure:
    """Draw the figure: the law under each training mode, then the test accuracies of all seeds."""
    figure = new_figure(PAGE_WIDTH, 60)
    grid = figure.add_gridspec(1, 2, width_ratios=(2.6, 1))
    panels = law_panels(figure, (1, 2), grid[0])
    rows = next(iter(parts.values())).rows
    counts = [chosen["seed"].nunique() for chosen in by_mode(rows)]
    for number, (panel, mode) in enumerate(zip(panels, MODES, strict=True)):
        selected = {name: Part(part.tables, by_mode(part.rows)[number]) for name, part in parts.items()}
        draw_curves(panel, drawn_parts(selected))
        # Once for both, if it is one number.
        seeds = f", n = {counts[number]}" if len(set(counts)) > 1 else ""
        title(panel[0], number, f"{mode} training{seeds}")
    axes = figure.add_subplot(grid[1])
    numbered = rows.assign(mode=rows["training"].str.startswith("frozen").astype(int))
    draw_against(axes, numbered, "mode", "test_accuracy", Look("", CONTROL, "o"), line="")
    axes.set_xticks(range(len(MODES)), MODES)
    axes.set(xlim=(-0.5, 1.5), ylabel="test accuracy")
    title(axes, 2, "test accuracy")
    looks = [look for look, _ in drawn_parts(parts)]
    legend_above(figure, looks, set(counts) if len(set(counts)) == 1 else ())
    return figure


def joint_minus_frozen(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the gain of joint training in test accuracy and in r, and the difference of the losses."""
    joint, frozen = by_mode(rows)
    both = joint.merge(frozen, on="seed", suffixes=("_joint", "_frozen"))
    return both.assign(
        accuracy_gain=both["test_accuracy_joint"] - both["test_accuracy_frozen"],
        r_gain=both["r_frozen"] - both["r_joint"],
        train_loss_gap=(both["train_loss_joint"] - both["train_loss_frozen"]).abs(),
    )


def compare_rates(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return a note per learning rate: both training modes at that rate, paired by seed; reported, not judged."""
    notes = []
    # Two-stage training has more epochs.
    last = tables.runs[tables.runs["epoch"] == tables.runs.groupby("run")["epoch"].transform("max")]
    for rate, at_rate in last.groupby("learning_rate"):
        both = joint_minus_frozen(tables, at_rate)
        if both.empty:
            continue
        gain, gap = interval_over_seeds(both["accuracy_gain"]), interval_over_seeds(both["train_loss_gap"])
        joint, frozen = (
            interval_over_seeds(both[f"r_{mode}"].to_numpy(), correlations=True) for mode in ("joint", "frozen")
        )
        name = name_value("learning_rate", rate)
        notes.append(
            f"At {name} joint training gains {gain.mean:.3f} [{gain.low:.3f}, {gain.high:.3f}] in test accuracy (n = "
            f"{gain.n}) at losses that differ by {gap.mean:.2g}; r is {joint.mean:.4f} with joint and "
            f"{frozen.mean:.4f} with two-stage training.".replace("-0.", "−0.")
        )
    return notes


REPRODUCTION = Reproduction(
    "frozen", draw, LAWS, conditions=("training",), statistics=joint_minus_frozen, remarks=compare_rates
)
