"""Test accuracy at equal training loss: joint against two-stage training, CIFAR-10 and Fashion-MNIST 10×10."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from equisep.analysis.claims import load_claims, name_value
from equisep.analysis.experiments import every_snapshot
from equisep.analysis.figures.frozen import by_mode
from equisep.analysis.figures.panels import PAIRS, draw_curves, say_not_run
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import interval_over_seeds
from equisep.analysis.tables import Tables, at_best_learning_rate
from equisep.plots import FULL_WIDTH

BEST = "best of each"
KEYS = ["dataset", "rate", "way"]
BLUE, ORANGE = PAIRS[0]
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
        pairs = [(_format_rate(rate), *(mode[mode["learning_rate"] == rate] for mode in modes)) for rate in rates]
        pairs.append((BEST, *(at_best_learning_rate(mode, ()) for mode in modes)))
        for rate, joint, frozen in pairs:
            for seed in sorted(set(joint["seed"]) & set(frozen["seed"])):
                path = joint[joint["seed"] == seed].sort_values("epoch")
                end = frozen[frozen["seed"] == seed].sort_values("epoch").iloc[-1]
                matched = path[path["train_loss"] <= end["train_loss"]].head(1)
                both = pd.concat([matched.assign(way="matched"), path.tail(1).assign(way="final")])
                comparisons.append(
                    both.assign(
                        rate=rate,
                        accuracy_gain=both["test_accuracy"] - end["test_accuracy"],
                        r_gain=end["r"] - both["r"],
                        r_joint=both["r"],
                        points_joint=both["points"],
                        loss_gap=both["train_loss"] - end["train_loss"],
                    )
                )
    return (
        pd.concat(comparisons, ignore_index=True)[list(COLUMNS)] if comparisons else pd.DataFrame(columns=list(COLUMNS))
    )


def _format_rate(rate: float) -> str:
    return f"rate {rate:.0e}".replace("e-0", "e-")


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


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return a note on the number of comparisons that are shown but not judged."""
    hollow = sum(not _is_judged(group) for _, group in compare(tables.runs).groupby(KEYS))
    return [f"Hollow: {hollow} comparisons not judged (losses not equal or too few seeds)."] if hollow else []


def draw(figure: FigureBase, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw the figure, a row per data set: the law by training mode, test accuracy against loss, gain by rate."""
    runs = tables.runs
    datasets = list(dict.fromkeys(runs["dataset"]))
    panels = figure.subplots(len(datasets), 3, squeeze=False)
    compared = compare(runs)
    for (law, path, gain), dataset in zip(panels, datasets, strict=True):
        joint, frozen = by_mode(runs[runs["dataset"] == dataset])
        _draw_law(law, tables, joint, "joint", BLUE, 0.95)
        _draw_law(law, tables, frozen, "two-stage", ORANGE, 0.86)
        law.set(yscale="log", xlabel="layer", ylabel="separation fuzziness D")
        law.set_title(name_value("dataset", str(dataset)))
        _draw_path(path, joint, BLUE)
        _draw_ends(path, joint, BLUE)
        _draw_ends(path, frozen, ORANGE)
        path.set(xscale="log", xlabel="training loss", ylabel="test accuracy")
        path.invert_xaxis()
        _label(path, "joint, during training and final", BLUE, 0.12)
        _label(path, "two-stage, final", ORANGE, 0.03)
        _draw_gains(gain, compared[compared["dataset"] == dataset])


def _label(axes: Axes, text: str, colour: str, height: float, va: str = "baseline") -> None:
    style: dict[str, Any] = {"color": colour, "fontsize": "x-small", "ha": "right", "va": va}
    axes.annotate(text, (0.97, height), xycoords="axes fraction", **style)


def _draw_law(axes: Axes, tables: Tables, rows: pd.DataFrame, name: str, colour: str, height: float) -> None:
    """Draw the law of one training mode at its best rate, labelled at a height of the panel."""
    if len(rows):
        best = at_best_learning_rate(rows, ())
        draw_curves(axes, tables.curves(best[best["epoch"] == best["epoch"].max()]), (colour, colour))
        _label(axes, f"{name}, {_format_rate(best['learning_rate'].iloc[0])}", colour, height, "top")


def _draw_path(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Draw test accuracy against training loss during training, medians over seeds, a line per rate."""
    for _, at_rate in rows.groupby("learning_rate"):
        medians = at_rate.groupby("epoch")[["train_loss", "test_accuracy"]].median()
        axes.plot(medians["train_loss"], medians["test_accuracy"], "-", color=colour, linewidth=0.7, alpha=0.7)


def _draw_ends(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Draw test accuracy against training loss at the last epoch, a point per network."""
    ends = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    axes.plot(ends["train_loss"], ends["test_accuracy"], "o", color=colour, markersize=2.5, alpha=0.7)


def _draw_gains(axes: Axes, compared: pd.DataFrame) -> None:
    """Draw the gain in test accuracy with its interval, matched and final, at each rate and at the best of each."""
    if compared.empty:
        say_not_run(axes)
        return
    rates = list(dict.fromkeys(compared["rate"]))
    for way, label, shift, marker in (("matched", "at matched loss", -0.12, "o"), ("final", "final", 0.12, "s")):
        axes.plot([], [], marker, color=BLUE, markersize=4, label=label)
        for rate, group in compared[compared["way"] == way].groupby("rate"):
            position, gain = rates.index(rate) + shift, interval_over_seeds(group["accuracy_gain"])
            face = BLUE if _is_judged(group) else "none"
            axes.vlines(position, gain.low, gain.high, color=BLUE, linewidth=1)
            axes.plot(position, gain.mean, marker, color=BLUE, markerfacecolor=face, markersize=4)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    names = [rate.removeprefix("rate ") for rate in rates]
    axes.set_xticks(range(len(rates)), names, rotation=45, ha="right", fontsize="x-small")
    axes.set(xlabel="learning rate", ylabel="gain in test accuracy")
    axes.legend(fontsize="x-small", frameon=False, loc="best")


def size(rows: pd.DataFrame) -> tuple[float, float]:
    """Return width and height of the figure, inches."""
    return FULL_WIDTH, 0.4 + 2.5 * rows["dataset"].nunique()


CONDITIONS = ("dataset", "training", "learning_rate")
REPRODUCTION = Reproduction(
    "out_of_sample",
    draw,
    size,
    CONDITIONS,
    statistics,
    every_snapshot,
    remarks=remark,
    extra_tables=summarise,
)
