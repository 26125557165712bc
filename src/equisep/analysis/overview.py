"""All runs of a source side by side, whatever their experiment: what decay ratio and test accuracy depend on.

``equisep figure NAME [source=SOURCE | tables=FOLDER] [results=FOLDER]`` for NAME decay_ratio or test_accuracy. With
``tables``, the runs are those of all saved tables FOLDER/EXPERIMENT/EXPERIMENT.csv. A table has a row per run and
epoch. Statistics are computed for each data set and seed, over all networks of that seed.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.claims import Claim, load_claims, name_value
from equisep.analysis.figures.panels import FITTED
from equisep.analysis.reproduction import NOT_AT_HAND
from equisep.analysis.result import Result
from equisep.analysis.rival_laws import compare_laws
from equisep.analysis.saved_tables import load_saved_runs
from equisep.analysis.statistics import (
    correlation_interval,
    partial_rank_correlation,
    permutation_p_value,
    rank_correlation,
)
from equisep.analysis.tables import at_best_learning_rate
from equisep.analysis.verdicts import NOT_TESTED, Verdict, judge
from equisep.config import PROTOCOL, ConfigError, compose_config, conventions
from equisep.measures import fit_law
from equisep.plots import style
from equisep.store import load_runs

# Of measuring, under which all runs are compared.
CONVENTIONS = ("paper", "evaluation")
# Without networks on one of these, the claims are not tested.
DATASETS = ("fashion_mnist 10×10", "mnist 10×10", "cifar10 10×10")
# A seed counts as a repetition if it has at least this share of the networks of its data set's largest seed.
WHOLE_SEED = 0.5
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
    for (run, _, epoch), layers in usable[usable["split"] == "train"].groupby(["run", "measure", "epoch"], sort=False):
        first = layers.iloc[0]
        last = bool(epoch == first["training.epochs"])
        fuzziness = layers.sort_values("layer")["D"].tolist()
        try:
            law = fit_law(fuzziness)
        except ValueError:
            continue
        values = {
            "epoch": int(first["epoch"]),
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


def _describe(row: pd.Series) -> dict[str, object]:
    """Return the columns that describe a run's configuration, from one of its rows."""
    momentum = row["optimizer.kind"] == "sgd" and row["optimizer.momentum"] > 0
    uniform = row["architecture.family"] == "fnn" and bool(row["architecture.depth"])
    imbalanced = ", imbalanced" if isinstance(row["dataset.sizes"], list) else ""
    # Older runs have no such field.
    labels = "" if pd.isna(row.get("dataset.label_seed")) else ", random labels"
    draw = "" if row["dataset.subset_seed"] == _draw_of_the_paper() else ", another draw"
    return {
        "run": row["run"],
        "experiment": row["experiment"],
        "family": _family(row),
        "dataset": f"{row['dataset.name']} {row['dataset.size']}×{row['dataset.size']}{imbalanced}{labels}{draw}",
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


def _family(row: pd.Series) -> str:
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
    names = ["r", "D_last", "log_ratio_cv", "test_accuracy"]
    means = rows.groupby([*CONDITION, "learning_rate"], dropna=False)[names].mean().reset_index()
    correlations = []
    for dataset, group in means.groupby("dataset"):
        accuracy, cases = group["test_accuracy"], len(group)
        seeds = rows.loc[rows["dataset"] == dataset, "seed"].nunique()
        values: dict[str, object] = {"dataset": dataset, "seeds": seeds, "settings": cases}
        for name in ("r", "log_ratio_cv"):
            values[f"p_of_{name}_within_depth"] = permutation_p_value(group[name], accuracy, group["depth"])
        for name in names[:-1]:
            counted = int((np.isfinite(group[name]) & np.isfinite(accuracy)).sum())
            values[f"correlation_with_{name}"] = correlation_interval(rank_correlation(group[name], accuracy), counted)
        for name in ("r", "log_ratio_cv"):
            for suffix, controls in (("depth", ["depth"]), ("depth_and_rate", ["depth", "learning_rate"])):
                partial = partial_rank_correlation(group[name], accuracy, [group[column] for column in controls])
                interval = correlation_interval(partial, cases, len(controls))
                values[f"correlation_with_{name}_at_equal_{suffix}"] = interval
        correlations.append(values)
    return pd.DataFrame(correlations, columns=None if correlations else ["dataset", "seeds", "settings"])


def _describe_scope(table: pd.DataFrame, claim: Claim) -> str:
    """Return what the verdicts are about: networks, seeds, rates and data sets; and whether the claim was read."""
    parts = []
    # The others are shown in the table alone.
    table = comparable(table)
    if len(table):
        rates = [name_value("learning_rate", rate) for rate in table["learning_rate"].agg(["min", "max"])]
        names = ", ".join(name_value("dataset", str(name)) for name in dict.fromkeys(table["dataset"]))
        networks = f"{table['run'].nunique()} feed-forward networks"
        seeds = table["seed"].nunique()
        parts += [networks, f"{seeds} seed{'s' if seeds != 1 else ''}", " to ".join(rates), names]
    parts += [] if claim.full_text else [NOT_AT_HAND]
    return f"Scope: {'; '.join(parts)}." if parts else ""


@dataclass(frozen=True)
class Overview:
    """A figure over all runs of a source, with its claim.

    name: of the script and the claim. draw: draws the figure of the rows by convention. shows: what its panels show.
    statistics: returns the claim's statistics, a row per data set and seed with the number of networks, or a row per
    data set with that of seeds. caveat: a note for the reader, or ''.
    """

    name: str
    draw: Callable[[Mapping[str, pd.DataFrame]], Figure]
    shows: str
    statistics: Callable[[pd.DataFrame], pd.DataFrame]
    caveat: str = ""

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 if there are too few runs, 2 if the arguments are invalid."""
        try:
            places = [word for word in arguments if word.startswith(("source=", "tables="))]
            others = [word for word in arguments if word not in places]
            invalid = [word for word in others if not word.startswith("results=")]
            if invalid or len(places) > 1:
                expected = "source=SOURCE or tables=FOLDER, and results=FOLDER, once each"
                raise ConfigError(f"{(invalid or places)[-1]}: use {expected}")
            results = Path(compose_config(others).results)
            kind, _, place = (places or [f"source={results}"])[0].partition("=")
            runs = load_saved_runs(Path(place)) if kind == "tables" else load_runs(place)
            result = self.make(runs, arguments)
            result.write(results)
        except ConfigError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return int(NOT_TESTED in result.statuses)

    def make(self, runs: pd.DataFrame, call: Sequence[str] = ()) -> Result:
        """Return figure, table (last epochs) and verdicts for a table of :func:`equisep.load_runs`.

        call: the arguments that chose the runs; they are recorded.
        """
        claim = load_claims()[self.name]
        summaries = {convention: summarise_runs(runs, convention) for convention in CONVENTIONS}
        measured = {name: summary for name, summary in summaries.items() if len(summary.table)} or summaries
        verdicts, tables, notes = {}, [], [self.caveat]
        for convention, summary in measured.items():
            last = summary.table[summary.table["last"].astype(bool)]
            verdicts[convention], remarks = self._judge(claim, summary.table)
            tables.append(last.assign(convention=convention))
            counts = f"{last['run'].nunique()} networks, {last['seed'].nunique()} seeds."
            notes += [f"{convention}: {remark}" for remark in (counts, *remarks, *summary.notes)]
        table = pd.concat(tables, ignore_index=True)
        with style():
            figure = self.draw({name: summary.table for name, summary in measured.items()}) if len(table) else None
        scope, notes = _describe_scope(table, claim), [note for note in notes if note]
        return Result(self.name, verdicts, figure, {"": table}, scope, tuple(notes), tuple(call), shows=self.shows)

    def _judge(self, claim: Claim, table: pd.DataFrame) -> tuple[Verdict, list[str]]:
        """Return the verdict, and notes on seeds and data sets that are not judged."""
        notes = []
        last = table[table["last"].astype(bool)]
        statistics = self.statistics(table) if len(last) else pd.DataFrame(columns=["dataset", "seed"])
        if "networks" in statistics and len(statistics):
            # Seeds with only a few of the networks are no repetitions of the others.
            complete = statistics["networks"] >= WHOLE_SEED * statistics.groupby("dataset")["networks"].transform("max")
            if not complete.all():
                counts = statistics[~complete].groupby("dataset")["seed"].nunique()
                names = ", ".join(f"{count} of {name_value('dataset', str(name))}" for name, count in counts.items())
                notes.append(f"Not judged: seeds with fewer than half the networks of the largest one: {names}.")
            statistics = statistics[complete]
        by_dataset = statistics.groupby("dataset")
        seeds = by_dataset["seeds"].first() if "seeds" in statistics else by_dataset["seed"].nunique()
        too_few = seeds.index[seeds < claim.seeds]
        if len(too_few):
            names = ", ".join(name_value("dataset", name) for name in too_few)
            notes.append(f"Shown but not judged, fewer than {claim.seeds} seeds: {names}.")
        for column in (name for name in map(str, statistics) if name.endswith("_within_depth")):
            values = ", ".join(
                f"{name_value('dataset', row['dataset'])} {row[column]:.2g}" for row in statistics.to_dict("records")
            )
            what = column.removeprefix("p_of_").removesuffix("_within_depth")
            notes.append(f"p-value of the correlation with {what}, permuted within depth: {values}.")
        absent = [name for name in DATASETS if name not in set(last["dataset"])]
        missing = f"no networks on {', '.join(name_value('dataset', name) for name in absent)}" if absent else ""
        return judge(claim, statistics[~statistics["dataset"].isin(too_few)], ["dataset"], missing=missing), notes
