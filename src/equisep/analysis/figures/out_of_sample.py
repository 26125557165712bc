"""Test accuracy at equal training loss: trained jointly against half by half, CIFAR-10 and Fashion-MNIST 10×10."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.claims import load_claims, name_value
from equisep.analysis.experiments import every_snapshot
from equisep.analysis.figures.panels import PAIRS, draw_curves, say_not_run, wide_figure
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import interval_over_seeds
from equisep.analysis.tables import Tables, at_best_learning_rate

BEST = "best of each"
BLUE, ORANGE = PAIRS[0]
# Training losses this near, in nats, count as equal where the ends of both trainings are compared.
EQUAL_LOSS = 0.01
COLUMNS = ("dataset", "rate", "way", "seed", "accuracy_gain", "r_gain", "r_joint", "loss_gap")


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per data set, rate, way of comparing and seed: what the joint network has more than the other.

    rows: a row per run and snapshot. rate: a learning rate, or the best of each way (lowest final training loss).
    way: "matched" takes the joint network at its first snapshot with a training loss, in evaluation mode, of at most
    the other's final one, and is left out where there is none; "final" takes both at the end. accuracy_gain: of test
    accuracy, joint less half by half; r_gain: r, half by half less joint; r_joint: r of the joint
    network; loss_gap: training loss, joint less other.
    """
    found = []
    for dataset, here in rows.groupby("dataset", sort=False):
        half = here["training"].str.startswith("frozen")
        ways = here[~half], here[half]
        rates = sorted(set(here["learning_rate"]))
        pairs = [(_say_rate(rate), *(way[way["learning_rate"] == rate] for way in ways)) for rate in rates]
        pairs.append((BEST, *(at_best_learning_rate(way, ()) for way in ways)))
        for rate, joint, other in pairs:
            for seed in sorted(set(joint["seed"]) & set(other["seed"])):
                path = joint[joint["seed"] == seed].sort_values("epoch")
                end = other[other["seed"] == seed].sort_values("epoch").iloc[-1]
                matched = path[path["train_loss"] <= end["train_loss"]].head(1)
                for way, taken in (("matched", matched), ("final", path.tail(1))):
                    for row in taken.to_dict("records"):
                        found.append(
                            {
                                "dataset": dataset,
                                "rate": rate,
                                "way": way,
                                "seed": seed,
                                "accuracy_gain": row["test_accuracy"] - end["test_accuracy"],
                                "r_gain": end["r"] - row["r"],
                                "r_joint": row["r"],
                                "loss_gap": row["train_loss"] - end["train_loss"],
                            }
                        )
    return pd.DataFrame(found, columns=list(COLUMNS))


def _say_rate(rate: float) -> str:
    return f"rate {rate:.0e}".replace("e-0", "e-")


def _is_judged(group: pd.DataFrame) -> bool:
    equal = group["way"].iloc[0] == "matched" or group["loss_gap"].abs().max() <= EQUAL_LOSS
    return bool(equal and group["seed"].nunique() >= load_claims()["out_of_sample"].seeds)


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons at equal training loss, of which enough seeds reach one."""
    compared = compare(tables.runs)
    kept = [group for _, group in compared.groupby(["dataset", "rate", "way"], sort=False) if _is_judged(group)]
    judged = pd.concat(kept) if kept else compared.head(0)
    return judged.assign(choice=judged["rate"] + ", " + judged["way"])


def summarise(tables: Tables, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of all comparisons: means with their intervals over seeds, and whether they are judged."""
    found = []
    for place, group in compare(tables.runs).groupby(["dataset", "rate", "way"], sort=False):
        gain, deviation = (interval_over_seeds(group[name]) for name in ("accuracy_gain", "r_gain"))
        facts: dict[str, Any] = dict(zip(("dataset", "rate", "way"), place, strict=True))
        facts |= {"seeds": gain.n, "accuracy_gain": gain.mean, "low": gain.low, "high": gain.high}
        facts |= {"r_gain": deviation.mean, "r_gain_low": deviation.low, "r_gain_high": deviation.high}
        means = {name: group[name].mean() for name in ("r_joint", "loss_gap")}
        found.append(facts | means | {"judged": _is_judged(group)})
    return {"_comparisons": pd.DataFrame(found)}


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return how many comparisons are shown and not judged, with why."""
    comparisons = compare(tables.runs).groupby(["dataset", "rate", "way"])
    hollow = sum(not _is_judged(group) for _, group in comparisons)
    return [f"Hollow, and not judged: {hollow} comparisons not at equal loss, or by few seeds."] if hollow else []


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure, a row a data set: the law both ways, test accuracy against loss, the gain at each rate."""
    runs = tables.runs
    datasets = list(dict.fromkeys(runs["dataset"]))
    figure = wide_figure(0.4 + 2.5 * len(datasets))
    panels = figure.subplots(len(datasets), 3, squeeze=False)
    compared = compare(runs)
    for (law, path, gain), dataset in zip(panels, datasets, strict=True):
        here = runs[runs["dataset"] == dataset]
        half = here["training"].str.startswith("frozen")
        _law_of(law, tables, here[~half], "jointly", BLUE, 0.95)
        _law_of(law, tables, here[half], "half by half", ORANGE, 0.86)
        law.set(yscale="log", xlabel="layer", ylabel="separation fuzziness D")
        law.set_title(name_value("dataset", str(dataset)))
        _path(path, here[~half], BLUE)
        _ends(path, here[~half], BLUE)
        _ends(path, here[half], ORANGE)
        path.set(xscale="log", xlabel="training loss", ylabel="test accuracy")
        path.invert_xaxis()
        for word, colour, height in (("jointly, and the way there", BLUE, 0.12), ("half by half", ORANGE, 0.03)):
            path.annotate(word, (0.97, height), xycoords="axes fraction", ha="right", color=colour, fontsize="x-small")
        _gains(gain, compared[compared["dataset"] == dataset])
    return figure


def _law_of(axes: Axes, tables: Tables, way: pd.DataFrame, word: str, colour: str, height: float) -> None:
    """Draw the law of one way of training at its best rate, with its name at a height of the panel."""
    if way.empty:
        return
    best = at_best_learning_rate(way, ())
    draw_curves(axes, tables.curves(best[best["epoch"] == best["epoch"].max()]), (colour, colour))
    name = f"{word}, {_say_rate(best['learning_rate'].iloc[0])}"
    looks: dict[str, Any] = {"ha": "right", "va": "top", "color": colour, "fontsize": "x-small"}
    axes.annotate(name, (0.97, height), xycoords="axes fraction", **looks)


def _path(axes: Axes, way: pd.DataFrame, colour: str) -> None:
    """Draw test accuracy against training loss on the way through training, medians over seeds, a line a rate."""
    for _, at_rate in way.groupby("learning_rate"):
        middle = at_rate.groupby("epoch")[["train_loss", "test_accuracy"]].median()
        axes.plot(middle["train_loss"], middle["test_accuracy"], "-", color=colour, linewidth=0.7, alpha=0.7)


def _ends(axes: Axes, way: pd.DataFrame, colour: str) -> None:
    """Draw test accuracy against training loss at the end of training, a point a network."""
    ends = way[way["epoch"] == way.groupby("run")["epoch"].transform("max")]
    axes.plot(ends["train_loss"], ends["test_accuracy"], "o", color=colour, markersize=2.5, alpha=0.7)


def _gains(axes: Axes, compared: pd.DataFrame) -> None:
    """Draw the gain in test accuracy with its interval at each rate and at the best, matched and final."""
    if compared.empty:
        say_not_run(axes)
        return
    rates = list(dict.fromkeys(compared["rate"]))
    for way, shift, mark in (("matched", -0.12, "o"), ("final", 0.12, "s")):
        for place, rate in enumerate(rates):
            group = compared[(compared["rate"] == rate) & (compared["way"] == way)]
            if group.empty:
                continue
            found = interval_over_seeds(group["accuracy_gain"])
            face = BLUE if _is_judged(group) else "none"
            axes.vlines(place + shift, found.low, found.high, color=BLUE, linewidth=1)
            axes.plot(place + shift, found.mean, mark, color=BLUE, markerfacecolor=face, markersize=4)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xticks(
        range(len(rates)), [rate.removeprefix("rate ") for rate in rates], rotation=45, ha="right", fontsize="x-small"
    )
    axes.set(xlabel="learning rate", ylabel="gain in test accuracy")
    for word, mark in (("at matched loss", "o"), ("both at the end", "s")):
        axes.plot([], [], mark, color=BLUE, markersize=4, label=word)
    axes.legend(fontsize="x-small", frameon=False, loc="best")


REPRODUCTION = Reproduction(
    "out_of_sample",
    draw,
    ("dataset", "training", "learning_rate"),
    statistics,
    every_snapshot,
    remarks=remark,
    more=summarise,
)
