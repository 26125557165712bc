"""All runs of a source side by side: what decay ratio and test accuracy go with, whatever experiment the runs are of.

``python reproduce/NAME.py [source=SOURCE] [results=FOLDER]`` for NAME decay_ratio or test_accuracy. A row is a run at
one epoch; statistics are taken for each data set and seed, over all networks of that seed.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.claims import NOT_RUN, judge, load_claims, name_value
from equisep.analysis.reproduction import FITTED, Result
from equisep.analysis.statistics import compare_laws, partial_rank_correlation, rank_correlation
from equisep.analysis.tables import at_best_learning_rate
from equisep.config import PROTOCOL, ConfigError, compose_config
from equisep.measures import fit_law
from equisep.store import load_runs

# Share of the networks of a data set's fullest seed from which another seed is a repetition of it.
WHOLE_SEED = 0.5
# A condition of a network: what is equal between runs that differ in their seed or learning rate alone.
CONDITION = ("dataset", "depth", "width", "optimizer", "training")
COLUMNS = (
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
    "log_ratio_cv",
    "aic_advantage",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "seconds",
    "commit",
    "torch",
    "processor",
)


@dataclass(frozen=True)
class Runs:
    """The networks of a source. table: a row per run and measured epoch, COLUMNS; notes: what was left out, and why."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def summarise_runs(runs: pd.DataFrame) -> Runs:
    """Return one row per run and epoch of a table that :func:`equisep.store.table.load_runs` made.

    Of the columns: dataset is name and size, optimizer "sgd", "momentum" or "adam", training "joint" or "half by
    half"; last tells the last epoch's row, which alone has aic_advantage (of the exponential, see law.Laws) and
    test_accuracy. Left out, and counted in the notes by the first reason: runs that cannot be read whole, are of
    another protocol version, did not end or diverged, were not trained or measured in the paper's way, or have a layer
    whose D has no logarithm.
    """
    by_run = runs.drop_duplicates("run").set_index("run")
    measured, usual = set(_as_the_paper_measures(runs)["run"]), set(by_run.index[_usual(by_run)])
    left = pd.Series("", index=by_run.index)
    # The first reason counts.
    for chosen, why in (
        (by_run["flaw"] != "", "cannot be read whole"),
        (by_run["protocol"] != PROTOCOL, f"of another protocol version than {PROTOCOL}"),
        (by_run["state"] != "done", "did not end, or diverged"),
        (~by_run.index.isin(usual), "not trained in the paper's way, or for less long than others"),
        (~by_run.index.isin(measured), "not measured in the paper's way"),
    ):
        left[chosen & (left == "")] = why
    usable = _as_the_paper_measures(runs[runs["run"].isin(left.index[left == ""])])
    rows = []
    test = usable[usable["split"] == "test"].drop_duplicates(["run", "epoch"]).set_index(["run", "epoch"])["accuracy"]
    for (run, _, epoch), layers in usable[usable["split"] == "train"].groupby(["run", "measure", "epoch"], sort=False):
        first = layers.iloc[0]
        last = bool(epoch == first["training.epochs"])
        try:
            fuzziness = layers.sort_values("layer")["D"].tolist()
            law = fit_law(fuzziness)
        except ValueError:
            continue
        rows.append(
            _describe(first)
            | {
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
            | {name: first[name] for name in ("seconds", "commit", "torch", "processor")}
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kept = set(table.loc[table["last"].astype(bool), "run"])
    left[(left == "") & ~left.index.isin(kept)] = "of a layer D has no logarithm in the last epoch"
    counts = left[left != ""].value_counts(sort=False)
    notes = tuple(f"Left out: {count} of {len(left)} runs: {why}." for why, count in counts.items())
    return Runs(table[table["run"].isin(kept)], notes)


def _as_the_paper_measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows measured in the paper's way; of a run measured per layer and per block those per layer."""
    measured = runs[runs["epoch"].notna()]
    measure = compose_config([]).measure
    for name in ("batch_norm", "batch_size", "weighting"):
        measured = measured[measured[f"measure.{name}"] == getattr(measure, name)]
    return measured[measured["measure.view"] == measured.groupby("run")["measure.view"].transform("max")]


def _usual(by_run: pd.DataFrame) -> pd.Series:
    """Return which runs were trained in the paper's way, and for as long as any other of their data set and way."""
    usual = pd.Series(False, index=by_run.index)
    readable = by_run[(by_run["flaw"] == "") & (by_run["state"] == "done")]
    if readable.empty:
        return usual
    paper = compose_config([])
    same = readable["training.batch_size"] == paper.training.batch_size
    same &= readable["optimizer.weight_decay"] == paper.optimizer.weight_decay
    same &= readable["optimizer.momentum"].isin((0.0, 0.9))
    sizes = readable["dataset.sizes"].map(lambda value: isinstance(value, list))
    same &= sizes | (readable["dataset.per_class"] == paper.dataset.per_class)
    way = readable["training.phases"].map(str)
    longest = readable.groupby([readable["dataset.name"], way])["training.epochs"].transform("max")
    usual[readable.index] = same & (readable["training.epochs"] == longest)
    return usual


def _describe(row: pd.Series) -> dict[str, object]:
    """Return what a run is, of its configuration in one of its rows."""
    momentum = row["optimizer.kind"] == "sgd" and row["optimizer.momentum"] > 0
    uniform = row["architecture.family"] == "fnn" and bool(row["architecture.depth"])
    imbalanced = ", imbalanced" if isinstance(row["dataset.sizes"], list) else ""
    # Runs from before there were random labels do not tell that they have none.
    labels = "" if pd.isna(row.get("dataset.label_seed")) else ", random labels"
    return {
        "run": row["run"],
        "experiment": row["experiment"],
        "family": _family(row),
        "dataset": f"{row['dataset.name']} {row['dataset.size']}×{row['dataset.size']}{imbalanced}{labels}",
        "depth": row["architecture.depth"] if uniform else math.nan,
        "width": row["architecture.width"] if uniform else math.nan,
        "optimizer": "momentum" if momentum else row["optimizer.kind"],
        "training": "half by half" if row["training.phases"] else "joint",
        "learning_rate": row["optimizer.learning_rate"],
        "seed": row["seed"],
    }


def _family(row: pd.Series) -> str:
    family = str(row["architecture.family"])
    if family != "fnn":
        return family
    parts = ["widths"] if isinstance(row["architecture.widths"], list) else []
    parts += [] if row["architecture.batch_norm"] else ["no batch norm"]
    parts += [] if row["architecture.activation"] == "relu" else ["linear"]
    return ", ".join(["fnn", *parts])


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the paper's plain networks: feed-forward, one width, batch norm, ReLU, on the plain data sets.

    Plain: classes of one size, true labels.
    """
    return table[(table["family"] == "fnn") & ~table["dataset"].str.contains("imbalanced|random labels")]


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the learning rate with the lowest final training loss, in each condition."""
    return at_best_learning_rate(table, CONDITION) if len(table) else table


def exponential_against_rivals(table: pd.DataFrame) -> pd.DataFrame:
    """Return by data set and seed how the exponential does against a power law and no law, over all fitted networks.

    exponential_share: of networks of which it has the lowest AIC. aic_advantage: median over them.
    """
    rows = comparable(table)
    rows = rows[rows["last"] & (rows["train_accuracy"] >= FITTED) & (rows["training"] == "joint")]
    # A D that grows exponentially is no law.
    best = rows.assign(best=(rows["aic_advantage"] > 0) & (rows["decay_ratio"] < 1))
    grouped = best.groupby(["dataset", "seed"])
    return grouped.agg(
        exponential_share=("best", "mean"), aic_advantage=("aic_advantage", "median"), networks=("run", "size")
    ).reset_index()


def correlations_with_test_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Return by data set and seed Spearman's correlation of test accuracy with r, D of the last layer and inequality.

    Over all networks that fit their data; NaN below three of them. With r and inequality also at equal depth.
    """
    rows = comparable(table)
    rows = rows[rows["last"] & (rows["train_accuracy"] >= FITTED)]
    found = [
        {"dataset": dataset, "seed": seed, "networks": len(group)}
        | {
            f"correlation_with_{name}": rank_correlation(group[name], group["test_accuracy"])
            for name in ("r", "D_last", "log_ratio_cv")
        }
        | {
            f"correlation_with_{name}_at_equal_depth": partial_rank_correlation(
                group[name], group["test_accuracy"], [group["depth"]]
            )
            for name in ("r", "log_ratio_cv")
        }
        for (dataset, seed), group in rows.groupby(["dataset", "seed"])
    ]
    return (
        pd.DataFrame(found).dropna(subset=["correlation_with_r"])
        if found
        else pd.DataFrame(columns=["dataset", "seed"])
    )


@dataclass(frozen=True)
class Overview:
    """A figure over all runs of a source, with its claim.

    name: the script's and the claim's. draw: the figure of the rows. statistics: a row per data set and seed with the
    claim's statistics and the number of networks. caveat: what a reader of the figure must know, '' for nothing.
    """

    name: str
    draw: Callable[[pd.DataFrame], Figure]
    statistics: Callable[[pd.DataFrame], pd.DataFrame]
    caveat: str = ""

    def main(self, arguments: Sequence[str]) -> int:
        """Run a script's command line; exit code 1 where there are too few runs, 2 where the arguments are wrong."""
        try:
            sources = [word.removeprefix("source=") for word in arguments if word.startswith("source=")]
            others = [word for word in arguments if not word.startswith("source=")]
            strange = [word for word in others if not word.startswith("results=")]
            if strange or len(sources) > 1:
                raise ConfigError(f"{(strange or sources)[-1]}: give source=SOURCE and results=FOLDER, once each")
            results = Path(compose_config(others).results)
            result = self.make(load_runs(sources[0] if sources else results))
            result.write(results)
        except ConfigError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        return 1 if result.verdict.status == NOT_RUN else 0

    def make(self, runs: pd.DataFrame) -> Result:
        """Return figure, table (of last epochs) and verdict of what :func:`equisep.store.table.load_runs` returned."""
        found = summarise_runs(runs)
        table = found.table
        claim = load_claims()[self.name]
        last = table[table["last"].astype(bool)]
        told = [f"{last['run'].nunique()} networks, {last['seed'].nunique()} seeds.", self.caveat, *found.notes]
        statistics = self.statistics(table) if len(last) else pd.DataFrame(columns=["dataset", "seed"])
        if len(statistics):
            # Seeds of a few other networks are no repetitions of the rest.
            fullest = statistics.groupby("dataset")["networks"].transform("max")
            whole = statistics["networks"] >= WHOLE_SEED * fullest
            if not whole.all():
                counts = statistics[~whole].groupby("dataset")["seed"].nunique()
                names = ", ".join(f"{count} of {name_value('dataset', str(name))}" for name, count in counts.items())
                told.append(f"Not judged: seeds with fewer than half the networks of the fullest one: {names}.")
            statistics = statistics[whole]
        seeds = statistics.groupby("dataset")["seed"].nunique()
        few = seeds[seeds < claim.seeds]
        if len(few):
            names = ", ".join(name_value("dataset", name) for name in few.index)
            told.append(f"Shown, not judged, for fewer than {claim.seeds} seeds: {names}.")
        verdict = judge(claim, statistics[~statistics["dataset"].isin(few.index)], ["dataset"])
        figure = self.draw(table) if len(last) else None
        return Result(self.name, verdict, figure, {"": last}, tuple(filter(None, told)))
