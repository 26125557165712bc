"""Test accuracy at equal training loss: joint against two-stage training, CIFAR-10 and Fashion-MNIST 10×10."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.claims import load_claims, name_value
from equisep.analysis.experiments import every_snapshot
from equisep.analysis.figures.frozen import by_mode
from equisep.analysis.figures.panels import (
    LAWS,
    Part,
    Parts,
    draw_curves,
    drawn_parts,
    label_law,
    legend_above,
    mark,
    say_not_run,
    title,
)
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import interval_over_seeds
from equisep.analysis.tables import Tables, at_best_learning_rate
from equisep.plots import CONTROL, LAW_HEIGHTS, LIGHT, PAGE_WIDTH, Look, draw_dots, law_panel, new_figure, use_log_scale

BEST = "best of each"
KEYS = ["dataset", "rate", "way"]
WAYS = {"matched": Look("at matched loss", CONTROL, "o"), "final": Look("at the end", CONTROL, "s")}
JOINT, TWO_STAGE = Look("joint training", "#4d4d4d", "o"), Look("two-stage training", "#b2182b", "s")
# Final training losses count as equal up to this difference, in nats.
EQUAL_LOSS = 0.01
COLUMNS = (*KEYS, "seed", "accuracy_gain", "r_gain", "r_joint", "points_joint", "loss_gap")


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare joint with two-stage training: return COLUMNS, a row per data set, rate, way of comparing and seed.

    rows: a row per run and snapshot. rate: a learning rate, or the best of each training mode (lowest final training
    loss). way: "matched" takes the joint network at its first snapshot whose training loss, in evaluation mode, is at
    most the final one of the two-stage network, and is left out if there is none; "final" takes both at the last epoch.
    accuracy_gain: test accuracy, joint minus two-stage; r_gain: r, two-stage minus joint; r_joint, points_joint: r of
    the joint network and its number of points; loss_gap: training loss, joint minus two-stage.
    """
    comparisons = []
    for _, selected in rows.groupby("dataset", sort=False):
        modes = by_mode(selected)
        rates = sorted(set(selected["learning_rate"]))
        pairs = [
            (name_value("learning_rate", rate), *(mode[mode["learning_rate"] == rate] for mode in modes))
            for rate in rates
        ]
        pairs.append((BEST, *(at_best_learning_rate(mode, ()) for mode in modes)))
        for rate, joint, frozen in pairs:
            ends = frozen.sort_values("epoch").groupby("seed").tail(1)[["seed", "train_loss", "test_accuracy", "r"]]
            both = joint.sort_values(["seed", "epoch"]).merge(ends, on="seed", suffixes=("", "_end"))
            reached = both[both["train_loss"] <= both["train_loss_end"]]
            firsts, lasts = reached.groupby("seed").head(1), both.groupby("seed").tail(1)
            comparisons.append(pd.concat([firsts.assign(way="matched"), lasts.assign(way="final")]).assign(rate=rate))
    compared = pd.concat(comparisons, ignore_index=True) if comparisons else pd.DataFrame(columns=list(COLUMNS))
    if len(compared):
        compared = compared.assign(
            accuracy_gain=compared["test_accuracy"] - compared["test_accuracy_end"],
            r_gain=compared["r_end"] - compared["r"],
            r_joint=compared["r"],
            points_joint=compared["points"],
            loss_gap=compared["train_loss"] - compared["train_loss_end"],
        )
    return compared[list(COLUMNS)]


def _is_judged(group: pd.DataFrame) -> bool:
    equal = group["way"].iloc[0] == "matched" or group["loss_gap"].abs().max() <= EQUAL_LOSS
    return bool(equal and group["seed"].nunique() >= load_claims()["out_of_sample"].seeds)


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons at equal training loss for which there are enough seeds."""
    compared = compare(tables.runs)
    groups = [group for _, group in compared.groupby(KEYS, sort=False) if _is_judged(group)]
    judged = pd.concat(groups) if groups else compared.head(0)
    return judged.assign(choice=judged["rate"] + ", " + judged["way"])


def summarise(tables: Tables, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of all comparisons: means with their confidence intervals, and whether they are judged."""
    comparisons = []
    for key, group in compare(tables.runs).groupby(KEYS, sort=False):
        gain, r_gain = (interval_over_seeds(group[name]) for name in ("accuracy_gain", "r_gain"))
        values: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        values |= {"seeds": gain.n, "accuracy_gain": gain.mean, "low": gain.low, "high": gain.high}
        values |= {"r_gain": r_gain.mean, "r_gain_low": r_gain.low, "r_gain_high": r_gain.high}
        means = {name: group[name].mean() for name in ("r_joint", "loss_gap")}
        comparisons.append(values | means | {"judged": _is_judged(group)})
    return {"_comparisons": pd.DataFrame(comparisons)}


def draw(parts: Parts) -> Figure:
    """Draw the figure, a row per data set: the law by training mode, test accuracy against loss, gain by rate."""
    first = next(iter(parts.values()))
    runs = first.tables.runs
    datasets = list(dict.fromkeys(runs["dataset"]))
    figure = new_figure(PAGE_WIDTH, 10 + 56 * len(datasets))
    grid = figure.add_gridspec(2 * len(datasets), 4, height_ratios=LAW_HEIGHTS * len(datasets))
    compared = compare(runs)
    share = None
    for row, dataset in enumerate(datasets):
        name = name_value("dataset", str(dataset))
        for column in (0, 1):
            panel = law_panel(figure, grid[2 * row, column], grid[2 * row + 1, column], share)
            share = share or panel
            draw_curves(panel, drawn_parts({key: _best(part, dataset, column) for key, part in parts.items()}))
            label_law(panel, "" if column else f"{name}\nseparation fuzziness D")
            title(panel[0], 4 * row + column, f"{('joint', 'two-stage')[column]} training")
        path, gain = (figure.add_subplot(grid[2 * row : 2 * row + 2, column]) for column in (2, 3))
        joint, frozen = by_mode(runs[runs["dataset"] == dataset])
        _draw_path(path, joint, JOINT)
        _draw_ends(path, joint, JOINT)
        _draw_ends(path, frozen, TWO_STAGE)
        use_log_scale(path, "x")
        path.set(xlabel="training loss", ylabel="test accuracy")
        path.invert_xaxis()
        title(path, 4 * row + 2, name)
        _draw_gains(gain, compared[compared["dataset"] == dataset])
        title(gain, 4 * row + 3, name)
        if row == 0:
            gain.legend(handles=[mark(look) for look in WAYS.values()], loc="upper left")
            path.legend(handles=[mark(JOINT), mark(TWO_STAGE)], loc="lower right")
    legend_above(figure, [look for look, _ in drawn_parts(parts)], {runs["seed"].nunique()})
    return figure


def last_layers(tables: Tables) -> pd.DataFrame:
    """Return D per layer at the last epoch of each run."""
    layers = tables.layers
    return layers[layers["epoch"] == layers.groupby("run")["epoch"].transform("max")]


def _best(part: Part, dataset: object, mode: int) -> Part:
    """Return the last epochs of one training mode at its best rate. mode: 0 joint, 1 two-stage."""
    rows = part.tables.runs[part.tables.runs["dataset"] == dataset]
    chosen = by_mode(rows)[mode]
    best = at_best_learning_rate(chosen, ()) if len(chosen) else chosen
    return Part(part.tables, best[best["epoch"] == best["epoch"].max()])


def _draw_path(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw test accuracy against training loss during training, medians over seeds, a line per rate."""
    for _, at_rate in rows.groupby("learning_rate"):
        medians = at_rate.groupby("epoch")[["train_loss", "test_accuracy"]].median()
        axes.plot(medians["train_loss"], medians["test_accuracy"], "-", color=look.colour, alpha=0.6)


def _draw_ends(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw test accuracy against training loss at the last epoch, a point per network."""
    ends = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    dots: dict[str, Any] = {"s": 5, "marker": look.marker, "alpha": 0.7, "zorder": 3}
    draw_dots(axes, ends["train_loss"], ends["test_accuracy"], look, ends["run"].tolist(), **dots)


def _draw_gains(axes: Axes, compared: pd.DataFrame) -> None:
    """Draw the gain in test accuracy with its interval, matched and final, at each rate and at the best of each."""
    if compared.empty:
        say_not_run(axes)
        return
    rates = list(dict.fromkeys(compared["rate"]))
    for (way, look), shift in zip(WAYS.items(), (-0.12, 0.12), strict=True):
        for rate, group in compared[compared["way"] == way].groupby("rate"):
            position, gain = rates.index(rate) + shift, interval_over_seeds(group["accuracy_gain"])
            face = look.colour if _is_judged(group) else "white"
            axes.vlines(position, gain.low, gain.high, color=look.colour, linewidth=0.75)
            axes.plot(position, gain.mean, look.marker, color=look.colour, markerfacecolor=face)
    axes.axhline(0, color=LIGHT, linewidth=0.5, zorder=0)
    names = [rate.removeprefix("rate ").replace(BEST, "best") for rate in rates]
    axes.set_xticks(range(len(rates)), names)
    axes.set(xlabel="learning rate", ylabel="gain in test accuracy")


SHOWS = (
    f"{LAWS} Third column: test accuracy against training loss, the line during joint training, a point per network "
    "at the end. Last column: test accuracy of joint less that of two-stage training, at the joint network's first "
    "snapshot of at most the same training loss and at the end, best: each at its own best rate; means with 95 % "
    "intervals over seeds; hollow: not judged, since losses differ or seeds are too few."
)
CONDITIONS = ("dataset", "training", "learning_rate")
REPRODUCTION = Reproduction(
    "out_of_sample",
    draw,
    SHOWS,
    CONDITIONS,
    statistics,
    every_snapshot,
    extra_tables=summarise,
    kept_layers=last_layers,
)
