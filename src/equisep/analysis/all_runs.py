"""All runs of a source as one table, whatever their experiment, and the statistics over them.

A table has a row per run and epoch. Statistics are computed for each data set and seed, over all networks of that seed,
or for each data set over settings.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import FITTED
from equisep.analysis.rival_laws import compare_laws
from equisep.analysis.statistics import (
    correlation_interval,
    partial_rank_correlation,
    permutation_p_value,
    rank_correlation,
)
from equisep.analysis.tables import at_best_learning_rate
from equisep.config import PROTOCOL, compose_config, conventions
from equisep.measures import fit_law

# Of measuring, under which all runs are compared.
CONVENTIONS = ("paper", "evaluation")
# Draws of the bootstrap over depths.
BOOTSTRAP = 1000
# Columns that define a condition: equal for runs that differ only in seed and learning rate.
CONDITION = ("dataset", "depth", "width", "optimizer", "training")
PROVENANCE = ("seconds", "commit", "torch", "processor")
COLUMNS = (
    *(
        "run",
        "experiment",
        "family",
        *CONDITION,
        "learning_rate",
        "seed",
        "epoch",
        "last",
        "D_last",
        "r",
        "decay_ratio",
    ),
    *("log_ratio_cv", "aic_advantage", "train_loss", "train_accuracy", "test_accuracy", *PROVENANCE),
)


@dataclass(frozen=True)
class Runs:
    """The networks of a source. table: COLUMNS, a row per run and measured epoch; notes: runs left out, and why."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def summarise_runs(runs: pd.DataFrame, convention: str = CONVENTIONS[0]) -> Runs:
    """Return a row per run and epoch, measured under a convention, from a table of :func:`equisep.load_runs`.

    Columns: dataset is name and size; optimizer "sgd", "momentum" or "adam"; training "joint" or "two-stage"; last
    marks the row of the last epoch, the only one with aic_advantage (of the exponential, see statistics.Laws) and
    test_accuracy. Left out, and counted in the notes by the first reason that applies: runs that are damaged, of
    another protocol version, unfinished or diverged, not trained or measured as in the paper, or with a D without
    logarithm in the last epoch.
    """
    by_run = runs.drop_duplicates("run").set_index("run")
    measured, trained = set(_measured_under(convention, runs)["run"]), _trained_as_in_paper(by_run)
    reasons = pd.Series("", index=by_run.index)
    # The first reason counts.
    for selected, reason in (
        (by_run["flaw"] != "", "damaged or incomplete records"),
        (by_run["protocol"] != PROTOCOL, f"another protocol version than {PROTOCOL}"),
        (by_run["state"] != "done", "unfinished or diverged"),
        (~trained, "not trained as in the paper, or for fewer epochs than others"),
        (~by_run.index.isin(measured), "not measured under this convention"),
    ):
        reasons[selected & (reasons == "")] = reason
    usable = _measured_under(convention, runs[runs["run"].isin(reasons.index[reasons == ""])])
    rows = []
    test = usable[usable["split"] == "test"].drop_duplicates(["run", "epoch"]).set_index(["run", "epoch"])["accuracy"]
    train, group = usable[usable["split"] == "train"], ["run", "measure", "epoch"]
    fuzziness_of = train.sort_values("layer", kind="stable").groupby(group)["D"].agg(list)
    # Dicts, since rows of so wide a table are slow to select one by one.
    for first in train.drop_duplicates(group).to_dict("records"):
        run, epoch = first["run"], first["epoch"]
        last = bool(epoch == first["training.epochs"])
        fuzziness = fuzziness_of[run, first["measure"], epoch]
        try:
            law = fit_law(fuzziness)
        except ValueError:
            continue
        values = {
            "epoch": int(epoch),
            "last": last,
            "D_last": fuzziness[-1],
            "r": law.pearson_r,
            "decay_ratio": law.decay_ratio,
            "log_ratio_cv": law.log_ratio_cv,
            "aic_advantage": compare_laws(fuzziness).advantage if last else math.nan,
            "train_loss": first["loss"],
            "train_accuracy": first["accuracy"],
            "test_accuracy": test.get((run, epoch), math.nan) if last else math.nan,
        }
        rows.append(_describe(first) | values | {name: first[name] for name in PROVENANCE})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    complete = set(table.loc[table["last"].astype(bool), "run"])
    reasons[(reasons == "") & ~reasons.index.isin(complete)] = "a non-positive D in the last epoch"
    counts = reasons[reasons != ""].value_counts(sort=False)
    notes = tuple(f"Left out: {count} of {len(reasons)} runs: {reason}." for reason, count in counts.items())
    return Runs(table[table["run"].isin(complete)], notes)


def _measured_under(convention: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows measured under a convention; for runs measured per layer and per block, those per layer."""
    measured = runs[runs["epoch"].notna()]
    fields = conventions()[convention] | {"weighting": compose_config([]).measure.weighting}
    for name, value in fields.items():
        # Measures in stored order do not record their order.
        measured = measured[measured[f"measure.{name}"].fillna("stored") == value]
    # A network with permuted layers is a control; older measures do not record the field.
    if "measure.permutation_seed" in measured:
        measured = measured[measured["measure.permutation_seed"].isna()]
    return measured[measured["measure.view"] == measured.groupby("run")["measure.view"].transform("max")]


def _trained_as_in_paper(by_run: pd.DataFrame) -> pd.Series:
    """Return which runs were trained as in the paper, for the most epochs of their data set and training phases."""
    result = pd.Series(False, index=by_run.index)
    readable = by_run[(by_run["flaw"] == "") & (by_run["state"] == "done")]
    if readable.empty:
        return result
    paper = compose_config([])
    same = readable["training.batch_size"] == paper.training.batch_size
    same &= readable["optimizer.weight_decay"] == paper.optimizer.weight_decay
    same &= readable["optimizer.momentum"].isin((0.0, 0.9))
    imbalanced = readable["dataset.sizes"].map(lambda sizes: isinstance(sizes, list))
    same &= imbalanced | (readable["dataset.per_class"] == paper.dataset.per_class)
    groups = readable.groupby([readable["dataset.name"], readable["training.phases"].map(str)])
    result[readable.index] = same & (readable["training.epochs"] == groups["training.epochs"].transform("max"))
    return result


def _describe(row: Mapping[Hashable, Any]) -> dict[str, object]:
    """Return the columns that describe a run's configuration, from one of its rows."""
    momentum = row["optimizer.kind"] == "sgd" and row["optimizer.momentum"] > 0
    uniform = row["architecture.family"] == "fnn" and bool(row["architecture.depth"])
    imbalanced = ", imbalanced" if isinstance(row["dataset.sizes"], list) else ""
    # Older runs have no such field.
    labels = "" if pd.isna(row.get("dataset.label_seed")) else ", random labels"
    size = row["dataset.size"]
    pixels = "" if pd.isna(size) else f" {size:g}×{size:g}"
    draw = "" if row["dataset.subset_seed"] == _draw_of_the_paper() else ", another draw"
    return {
        "run": row["run"],
        "experiment": row["experiment"],
        "family": _family(row),
        "dataset": f"{row['dataset.name']}{pixels}{imbalanced}{labels}{draw}",
        "depth": row["architecture.depth"] if uniform else math.nan,
        "width": row["architecture.width"] if uniform else math.nan,
        "optimizer": "momentum" if momentum else row["optimizer.kind"],
        "training": "two-stage" if row["training.phases"] else "joint",
        "learning_rate": row["optimizer.learning_rate"],
        "seed": row["seed"],
    }


@lru_cache(maxsize=1)
def _draw_of_the_paper() -> int:
    return compose_config([]).dataset.subset_seed


def _family(row: Mapping[Hashable, Any]) -> str:
    family = str(row["architecture.family"])
    if family != "fnn":
        return family
    parts = ["widths"] if isinstance(row["architecture.widths"], list) else []
    parts += [] if row["architecture.batch_norm"] else ["no batch norm"]
    parts += [] if row["architecture.activation"] == "relu" else ["linear"]
    return ", ".join(["fnn", *parts])


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of feed-forward networks of one width with batch norm and ReLU, on the paper's balanced data."""
    return table[(table["family"] == "fnn") & ~table["dataset"].str.contains("imbalanced|random labels|another draw")]


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the learning rate with the lowest final training loss, in each condition."""
    return at_best_learning_rate(table, CONDITION) if len(table) else table


def exponential_against_rivals(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the exponential with a power law and no law, by data set and seed, over jointly trained, fitted networks.

    exponential_share: share of networks for which it has the lowest AIC. aic_advantage: median over networks.
    """
    rows = comparable(table)
    rows = rows[rows["last"] & (rows["train_accuracy"] >= FITTED) & (rows["training"] == "joint")]
    # An exponentially growing D does not follow the law.
    best = rows.assign(best=(rows["aic_advantage"] > 0) & (rows["decay_ratio"] < 1))
    grouped = best.groupby(["dataset", "seed"])
    return grouped.agg(
        exponential_share=("best", "mean"), aic_advantage=("aic_advantage", "median"), networks=("run", "size")
    ).reset_index()


def correlations_with_test_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlations of test accuracy with r, last-layer D and CV of log ρ, by data set.

    Over settings (CONDITION and learning rate), each the mean over its seeds, of networks that fit their data: seeds
    repeat a setting and are no further cases. For r and CV of log ρ also the partial correlations, controlling for
    depth, and for depth and learning rate. Each is an interval by Fisher's z; p_of_…_within_depth is the p-value of the
    correlation if the values are permuted within each depth.
    """
    rows = comparable(table)
    rows = rows[rows["last"].astype(bool) & (rows["train_accuracy"] >= FITTED)]
    correlations = []
    for dataset, group in _means_over_seeds(table).groupby("dataset"):
        accuracy, cases = group["test_accuracy"], len(group)
        seeds = rows.loc[rows["dataset"] == dataset, "seed"].nunique()
        values: dict[str, object] = {"dataset": dataset, "seeds": seeds, "settings": cases}
        values["fitted"] = group["networks"].sum()
        for name in ("r", "log_ratio_cv"):
            values[f"p_of_{name}_within_depth"] = permutation_p_value(group[name], accuracy, group["depth"])
        for name in ("r", "D_last", "log_ratio_cv"):
            counted = int((np.isfinite(group[name]) & np.isfinite(accuracy)).sum())
            values[f"correlation_with_{name}"] = correlation_interval(rank_correlation(group[name], accuracy), counted)
        for name in ("r", "log_ratio_cv"):
            for suffix, controls in (("depth", ["depth"]), ("depth_and_rate", ["depth", "learning_rate"])):
                partial = partial_rank_correlation(group[name], accuracy, [group[column] for column in controls])
                usable = int((np.isfinite(group[name]) & np.isfinite(accuracy)).sum())
                interval = correlation_interval(partial, usable, len(controls))
                values[f"correlation_with_{name}_at_equal_{suffix}"] = interval
        correlations.append(values)
    return pd.DataFrame(correlations, columns=None if correlations else ["dataset", "seeds", "settings", "fitted"])


def remarks_on_correlations(table: pd.DataFrame) -> list[str]:
    """Return notes on the correlations with test accuracy where nothing but depth and rate differs, and over depths.

    The first: over settings with the most frequent width, optimizer and training of a data set; depth and learning rate
    are controlled as categories, since their effects need not be monotonic. The second: the interval of the judged
    correlation if not settings but depths are the independent cases, from depths drawn again (bootstrap percentiles).
    """
    means = _means_over_seeds(table)
    notes = []
    for column, name in (("log_ratio_cv", "the CV of log ρ"), ("r", "r")):
        within, drawn = [], []
        for dataset, group in means.groupby("dataset"):
            protocol = group[["width", "optimizer", "training"]].apply(tuple, axis=1)
            same = group[protocol == protocol.mode().iloc[0]]
            categories = [pd.get_dummies(same[key], drop_first=True) for key in ("depth", "learning_rate")]
            controls = [indicators[key] for indicators in categories for key in indicators]
            partial = partial_rank_correlation(same[column], same["test_accuracy"], controls)
            interval = correlation_interval(partial, len(same), len(controls))
            if not math.isfinite(interval.mean):
                continue
            named = name_value("dataset", str(dataset))
            within.append(f"{named} {_in_words(interval.mean, interval.low, interval.high)}, {len(same)} settings")
            drawn.append(f"{named} {_in_words(*_over_depths(group, column))}")
        if within:
            notes.append(
                f"Correlation of {name} with test accuracy at one width, optimizer and training, at equal depth and "
                f"rate as categories: {'; '.join(within)}."
            )
            notes.append(f"The same over all settings, intervals over depths drawn again: {'; '.join(drawn)}.")
    return notes


def _in_words(mean: float, low: float, high: float) -> str:
    return f"{mean:.2g} [{low:.2g}, {high:.2g}]".replace("-", "−")


def _over_depths(settings: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Return the partial correlation at equal depth and rate with a bootstrap interval over depths."""

    columns = settings[[column, "test_accuracy", "depth", "learning_rate"]].to_numpy(dtype=float).T
    by_depth = list(settings.reset_index(drop=True).groupby("depth").groups.values())
    generator = np.random.default_rng(0)

    def correlation(cases: NDArray[np.float64]) -> float:
        one, other, *controls = cases
        return partial_rank_correlation(one, other, controls)

    drawn = [
        correlation(columns[:, np.concatenate([by_depth[place] for place in places])])
        for places in generator.integers(len(by_depth), size=(BOOTSTRAP, len(by_depth)))
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
    return correlation(columns), float(low), float(high)


def _means_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds in each setting of networks that fit their data."""
    rows = comparable(table)
    rows = rows[rows["last"].astype(bool) & (rows["train_accuracy"] >= FITTED)]
    names = ["r", "D_last", "log_ratio_cv", "test_accuracy"]
    settings = rows.groupby([*CONDITION, "learning_rate"], dropna=False)
    return settings[names].mean().join(settings.size().rename("networks")).reset_index()
