"""Figures over all runs of a source, whatever their experiment: what decay ratio and test accuracy depend on.

``equisep figure NAME [source=SOURCE | tables=FOLDER] [results=FOLDER]`` for NAME decay_ratio or test_accuracy. With
``tables``, the runs are those of all saved tables FOLDER/EXPERIMENT/EXPERIMENT.csv.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from equisep.analysis.all_runs import CONVENTIONS, comparable, summarise_runs
from equisep.analysis.claims import Claim, load_claims, name_value
from equisep.analysis.reproduction import NOT_AT_HAND
from equisep.analysis.result import Result
from equisep.analysis.saved_tables import load_saved_runs
from equisep.analysis.verdicts import NOT_TESTED, Verdict, judge
from equisep.config import ConfigError, compose_config
from equisep.plots import style
from equisep.store import load_runs

# Without networks on one of these, the claims are not tested.
DATASETS = ("fashion_mnist 10×10", "mnist 10×10", "cifar10 10×10")
# A seed counts as a repetition if it has at least this share of the networks of its data set's largest seed.
WHOLE_SEED = 0.5
# With fewer, a partial correlation that controls for depth and learning rate has no interval.
LEAST_SETTINGS = 6


def _describe_scope(table: pd.DataFrame, claim: Claim) -> str:
    """Return what the verdicts are about: networks, seeds, rates and data sets; and whether the claim was read."""
    parts = []
    # The others are shown in the table alone.
    table = comparable(table)
    if len(table):
        rates = [name_value("learning_rate", rate) for rate in table["learning_rate"].agg(["min", "max"])]
        names = ", ".join(name_value("dataset", str(name)) for name in dict.fromkeys(table["dataset"]))
        networks = f"{table['run'].nunique():,} feed-forward networks, of which those judged are counted in the notes"
        seeds = table["seed"].nunique()
        parts += [networks, f"{seeds} seed{'s' if seeds != 1 else ''}", " to ".join(rates), names]
    parts += [] if claim.full_text else [NOT_AT_HAND]
    return f"Scope: {'; '.join(parts)}." if parts else ""


def _count(judged: pd.DataFrame) -> str:
    """Return a note with the number of networks, or of settings and their networks, that a verdict is about."""
    counted = "settings" if "settings" in judged else "networks"
    counts = judged.groupby("dataset")[counted].sum()
    names = ", ".join(f"{count} on {name_value('dataset', str(name))}" for name, count in counts.items())
    networks = f" of {judged['fitted'].sum():,} networks" if counted == "settings" else ""
    return f"Judged: {counts.sum():,} {counted}{networks}: {names}."


@dataclass(frozen=True)
class Overview:
    """A figure over all runs of a source, with its claim.

    name: of the script and the claim. draw: draws the figure of the rows by convention. shows: what its panels show.
    statistics: returns the claim's statistics, a row per data set and seed with the number of networks, or a row per
    data set with that of seeds. caveat: a note for the reader, or ''. remarks: further ones, of the rows of one
    convention.
    """

    name: str
    draw: Callable[[Mapping[str, pd.DataFrame]], Figure]
    shows: str
    statistics: Callable[[pd.DataFrame], pd.DataFrame]
    caveat: str = ""
    remarks: Callable[[pd.DataFrame], Sequence[str]] = lambda table: ()

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
            remarks += self.remarks(summary.table)
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
        if "settings" in statistics:
            few = statistics["settings"] < LEAST_SETTINGS
            if few.any():
                names = ", ".join(name_value("dataset", name) for name in statistics.loc[few, "dataset"])
                notes.append(f"Shown but not judged, fewer than {LEAST_SETTINGS} settings: {names}.")
            statistics = statistics[~few]
        by_dataset = statistics.groupby("dataset")
        seeds = by_dataset["seeds"].first() if "seeds" in statistics else by_dataset["seed"].nunique()
        too_few = seeds.index[seeds < claim.seeds]
        if len(too_few):
            names = ", ".join(name_value("dataset", name) for name in too_few)
            notes.append(f"Shown but not judged, fewer than {claim.seeds} seeds: {names}.")
        for column in (name for name in map(str, statistics) if name.endswith("_within_depth")):
            what = column.removeprefix("p_of_").removesuffix("_within_depth")
            at_depth = f"correlation_with_{what}_at_equal_depth"
            values = ", ".join(
                f"{name_value('dataset', row['dataset'])} {row[column]:.2g} "
                + f"({row[at_depth].mean:.2f})".replace("-", "−")
                for row in statistics.to_dict("records")
                if row["seeds"] >= claim.seeds
            )
            if values:
                notes.append(
                    f"p-value of the correlation with {what}, permuted within depth (and at equal depth): {values}."
                )
        judged = statistics[~statistics["dataset"].isin(too_few)]
        if len(judged):
            notes.append(_count(judged))
        absent = [name for name in DATASETS if name not in set(last["dataset"])]
        missing = f"no networks on {', '.join(name_value('dataset', name) for name in absent)}" if absent else ""
        return judge(claim, judged, ["dataset"], missing=missing), notes
