"""The recorded runs of an experiment as tables."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equisep.analysis.experiments import PlannedRun, last_epoch
from equisep.config import (
    ALL_CONVENTIONS,
    PROTOCOL,
    Config,
    ConfigError,
    Measure,
    Training,
    by_convention,
    config_hash,
    convention_of,
    from_plain,
    has_batch_norm,
    identity_of_measure,
    measure_id,
    robustness_id,
)
from equisep.measures import Law, LayerRecord, fit_law
from equisep.store import FINISHED, RunRecord, read_records, read_store, tabulate_robustness

# Columns of a run, after those of the varied fields.
RUN_COLUMNS = (
    *("run", "seed", "learning_rate", "view", "convention", "epoch", "points", "r", "log_ratio_cv", "decay_ratio"),
    *("half_life", "relative_residual", "relative_curvature", "D_first", "D_last", "r_test", "decay_ratio_test"),
    *("train_loss", "train_accuracy", "test_accuracy", "train_images", "test_images", "width_multiplier"),
    *("seconds", "ended", "engine", "commit", "torch", "processor", "lock", "config"),
)
LAYER_COLUMNS = ("run", "view", "convention", "epoch", "layer", "name", "D")
# Columns of runs that follow from the layers.
DERIVED = ("points", "log_ratio_cv")
COURSE_COLUMNS = ("run", "view", "convention", "epoch", "r", "decay_ratio", "D_last")
# What tells which layers belong to a row of runs.
LAYERS_OF = ("run", "view", "convention", "epoch")
# Column that also does, of runs and layers, in an experiment that measures networks with permuted layers too.
PERMUTATION = "permutation_seed"
PERTURBED_COLUMNS = (
    *("run", "convention", "kind", "strength", "layer", "draws"),
    *("D_last", "log_D_spread", "change", "r", "r_spread"),
    *("train_accuracy", "test_accuracy", "test_accuracy_spread"),
)


@dataclass(frozen=True)
class Tables:
    """The recorded runs of an experiment.

    runs: a row per finished run, view, convention and epoch: the varied fields, then RUN_COLUMNS; accuracies and loss
    in evaluation mode, test_accuracy where that epoch was measured on the test set; config is the hash of the network's
    configuration. A diverged run has NaN; a run with
    a D without logarithm has NaN in the columns of the law. layers: a row per layer of each of those, on the training
    set: LAYER_COLUMNS. perturbed: a row per run, perturbation, strength and layer, aggregated over draws:
    PERTURBED_COLUMNS with the geometric mean of D_last, the standard deviations of log D_last, r and test accuracy, the
    root mean square change of log D_last against the unperturbed network, and means of the rest; empty without a
    robustness evaluation. course: a row per run, view, convention and measured epoch, whether tabulated in ``runs`` or
    not: COURSE_COLUMNS.
    missing: number of planned runs that are not recorded or not measured. flaws: runs left out because their records
    are incomplete or damaged, and why. scope: of the result that saved tables belong to, in words, if it is known.
    """

    runs: pd.DataFrame
    layers: pd.DataFrame
    missing: int
    flaws: tuple[str, ...] = ()
    perturbed: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PERTURBED_COLUMNS)))
    course: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COURSE_COLUMNS)))
    scope: str = ""

    @property
    def conventions(self) -> tuple[str, ...]:
        """The conventions of measuring, in the order in which they are asked for."""
        names = tuple(dict.fromkeys(self.runs["convention"]))
        return tuple(name for name in names if name != ALL_CONVENTIONS) or names

    def under(self, convention: str) -> "Tables":
        """Return the tables under one convention; networks without batch normalisation belong to each."""
        runs, layers, perturbed, course = (
            table[table["convention"].isin((convention, ALL_CONVENTIONS))].reset_index(drop=True)
            for table in (self.runs, self.layers, self.perturbed, self.course)
        )
        return replace(self, runs=runs, layers=layers, perturbed=perturbed, course=course)

    @property
    def layers_of(self) -> list[str]:
        """The columns that tell which layers belong to a row of ``runs``."""
        return [*LAYERS_OF, *([PERMUTATION] if PERMUTATION in self.layers else [])]

    def fuzziness(self, row: Mapping[Any, Any]) -> list[float]:
        """Return D of each layer, the input first, for a row of ``runs``."""
        return self._fuzziness.get(tuple(row[name] for name in self.layers_of), [])

    @cached_property
    def _fuzziness(self) -> dict[tuple[Any, ...], list[float]]:
        grouped = self.layers.sort_values("layer").groupby(self.layers_of, sort=False)["D"]
        return {key: values.tolist() for key, values in grouped}

    def curves(self, rows: pd.DataFrame) -> list[list[float]]:
        """Return D per layer for each of the given rows of ``runs`` that did not diverge."""
        usable = rows[rows["train_loss"].notna()]
        return [self.fuzziness(row) for row in usable[self.layers_of].to_dict("records")]


def law_of_layers(fuzziness: NDArray[np.float64]) -> Law | None:
    """Return the law of D per layer, (layers,); None for one layer, or where D of a layer has no logarithm."""
    try:
        return fit_law(fuzziness)
    except ValueError:
        return None


def with_derived(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Return the table of runs with the columns DERIVED, from the layers where it was written without them."""
    if set(DERIVED) <= set(runs):
        return runs
    derived = []
    for key, group in layers.sort_values("layer").groupby(list(LAYERS_OF), sort=False):
        values = group["D"].to_numpy()
        law = law_of_layers(values)
        derived.append((*key, len(values), law.log_ratio_cv if law else math.nan))
    table = pd.DataFrame(derived, columns=[*LAYERS_OF, *DERIVED])
    # An earlier version may have written one of them.
    complete = runs.drop(columns=[name for name in DERIVED if name in runs])
    complete = complete.merge(table, on=list(LAYERS_OF), how="left")
    # The layers of some epochs only may have been written.
    points = complete.groupby(["run", "view"])["points"].transform("max")
    return complete.assign(points=points)


def at_best_learning_rate(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the rows of ``runs`` at the learning rate with the lowest final training loss, in each condition.

    The loss is the median over seeds at the last epoch, in evaluation mode. Rates at which fewer seeds diverged are
    preferred; ties are resolved in favour of the smaller rate. conditions: columns that define a condition.
    """
    last = runs[runs["epoch"] == runs.groupby("run")["epoch"].transform("max")]
    groups = [*conditions, "learning_rate"]
    by_rate = last.groupby(groups, sort=False, dropna=False)["train_loss"]
    ranked = by_rate.agg(diverged=lambda losses: losses.isna().sum(), loss="median").reset_index()
    ranked = ranked.sort_values(["diverged", "loss", "learning_rate"], kind="stable")
    best = ranked.drop_duplicates(list(conditions)) if conditions else ranked.head(1)
    return runs.merge(best[groups], on=groups, how="inner")


def collect_tables(
    points: Sequence[PlannedRun],
    epochs: Callable[[Training], Sequence[int]] = last_epoch,
    source: str | Path | None = None,
    saved: Callable[[Config, Sequence[int]], Tables | None] | None = None,
) -> Tables:
    """Return the finished runs of an experiment as tables; missing runs are counted, never trained.

    epochs: the measured epochs to tabulate. source: where to read the runs, see :mod:`equisep.store.readers`; default:
    the store named by the points. saved: returns the rows of a run that the source lacks, or None. Raises ConfigError
    for an invalid source, if a run keeps no snapshot of one of the epochs, or if the source has the same run with
    different data.
    """
    runs: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    course: list[dict[str, Any]] = []
    perturbed: list[pd.DataFrame] = []
    flaws: list[str] = []
    missing = 0
    distinct = {(config_hash(point.config), *map(measure_id, measures_of(point.config))): point for point in points}
    records, other_protocol = _find_records(list(distinct.values()), source)
    if other_protocol:
        flaws.append(f"Left out: {other_protocol} runs of another protocol version than {PROTOCOL}.")
    for point, record in zip(distinct.values(), records, strict=True):
        selected = epochs(point.config.training)
        if record is None or record.flaw or not _is_complete(record, point.config, selected):
            rows = saved(point.config, selected) if saved else None
            if rows is not None:
                runs += [point.varied | dict(row) for _, row in rows.runs[list(RUN_COLUMNS)].iterrows()]
                layers += [dict(row) | _permutation(point) for _, row in rows.layers.iterrows()]
                perturbed += [rows.perturbed] if len(rows.perturbed) else []
            elif record is not None and record.flaw:
                flaws.append(f"Left out: run {record.run}, {record.flaw}.")
            else:
                missing += 1
            continue
        for alone, convention in zip(by_convention(point.config), name_conventions(point.config), strict=True):
            by_epoch = _measured(record, alone)
            named = {"run": record.run, "view": alone.measure.view, "convention": convention}
            course += [named | _course_row(layer) for (_, split), layer in sorted(by_epoch.items()) if split == "train"]
            for epoch in selected:
                train, test = by_epoch.get((epoch, "train")), by_epoch.get((epoch, "test"))
                runs.append(point.varied | _row(point, record, train, test) | named | {"epoch": epoch})
                layers += _layer_rows(named | {"epoch": epoch} | _permutation(point), train) if train else []
            if alone.robustness is not None and record.state["state"] != "diverged":
                identity = robustness_id(alone.robustness, alone.measure)
                evaluation = replace(record, robustness={identity: record.robustness[identity]})
                perturbed.append(_perturbed_rows(evaluation).assign(convention=convention))
    varied = list(points[0].varied) if points else []
    return Tables(
        pd.DataFrame(runs, columns=[*varied, *RUN_COLUMNS]),
        pd.DataFrame(layers, columns=[*LAYER_COLUMNS, *([PERMUTATION] if PERMUTATION in varied else [])]),
        missing,
        tuple(flaws),
        pd.concat(perturbed, ignore_index=True)[list(PERTURBED_COLUMNS)]
        if perturbed
        else pd.DataFrame(columns=list(PERTURBED_COLUMNS)),
        pd.DataFrame(course, columns=list(COURSE_COLUMNS)),
    )


def _permutation(point: PlannedRun) -> dict[str, Any]:
    return {PERMUTATION: point.varied[PERMUTATION]} if PERMUTATION in point.varied else {}


def _course_row(record: LayerRecord) -> dict[str, Any]:
    law = record.law()
    values = {"r": law.pearson_r, "decay_ratio": law.decay_ratio} if law else {}
    return {"epoch": record.epoch, "D_last": record.fuzziness[-1]} | values


def measures_of(config: Config) -> list[Measure]:
    """Return the measures that a config asks for, one per convention."""
    return [alone.measure for alone in by_convention(config)]


def name_conventions(config: Config) -> list[str]:
    """Return the conventions that a config asks for, as tables name them."""
    if config.measures and not has_batch_norm(config.architecture):
        return [ALL_CONVENTIONS]
    return [convention_of(identity_of_measure(measure)) for measure in measures_of(config)]


def _measured(record: RunRecord, config: Config) -> dict[tuple[int, str], LayerRecord]:
    """Return the records of a config's measure by epoch and split."""
    measurement = record.measures.get(measure_id(config.measure))
    return {(layer.epoch, layer.split): layer for layer in measurement.records} if measurement else {}


def _is_complete(record: RunRecord, config: Config, epochs: Sequence[int]) -> bool:
    """Whether a run is finished and measured as a config asks; raises ConfigError if it has no snapshot of an epoch."""
    if record.state["state"] not in FINISHED:
        return False
    if record.state["state"] == "diverged":
        return True
    # The run keeps the snapshots of the config with which it was started.
    absent = sorted(set(epochs) - set(from_plain(dict(record.config)).training.kept_epochs()))
    if absent:
        reason = f"run {record.run} has no snapshot of epoch {absent[0]}"
        raise ConfigError(f"{reason}: remove it from the store and train it again")
    return not any(_lacks(record, alone, epochs) for alone in by_convention(config))


def _lacks(record: RunRecord, config: Config, epochs: Sequence[int]) -> bool:
    """Whether a run lacks an evaluation under a config's measure."""
    splits = ("train", "test") if config.measure.test_every_snapshot else ("train",)
    measured = _measured(record, config)
    if any((epoch, split) not in measured for epoch in epochs for split in splits):
        return True
    return config.robustness is not None and robustness_id(config.robustness, config.measure) not in record.robustness


def _row(point: PlannedRun, record: RunRecord, train: LayerRecord | None, test: LayerRecord | None) -> dict[str, Any]:
    law = train.law() if train else None
    state = record.state
    values: dict[str, Any] = dict.fromkeys(RUN_COLUMNS, math.nan) | {
        "run": record.run,
        "seed": point.config.seed,
        "learning_rate": point.config.optimizer.learning_rate,
        "width_multiplier": getattr(point.config.architecture, "width_multiplier", 1.0),
        "seconds": state["seconds"],
        "ended": state.get("ended"),
        "config": config_hash(point.config),
    }
    values |= {name: record.config["data"][name] for name in ("train_images", "test_images")}
    values |= {name: state["machine"].get(name) for name in ("engine", "commit", "torch", "processor", "lock")}
    if law:
        names = ("log_ratio_cv", "decay_ratio", "half_life", "relative_residual", "relative_curvature")
        values |= {"r": law.pearson_r} | {name: getattr(law, name) for name in names}
    if train:
        values |= {"points": len(train.layers), "D_first": train.fuzziness[0], "D_last": train.fuzziness[-1]}
        values |= {"train_loss": train.loss, "train_accuracy": train.accuracy}
    if test and (law := test.law()):
        values |= {"r_test": law.pearson_r, "decay_ratio_test": law.decay_ratio}
    return values | ({"test_accuracy": test.accuracy} if test else {})


def _perturbed_rows(record: RunRecord) -> pd.DataFrame:
    """Return the robustness results of one run, aggregated over draws."""
    draws = tabulate_robustness([record])
    clean = float(draws.loc[draws["kind"] == "clean", "D_last"].iloc[0])
    with np.errstate(divide="ignore"):
        # Minus infinity, as is the mean, for a draw with no variation within the classes.
        logarithms = np.log(draws["D_last"])
    draws = draws.assign(logarithm=logarithms, square=(logarithms - math.log(clean)) ** 2 if clean > 0 else math.nan)
    rows = draws.groupby(["run", "kind", "strength", "layer"], dropna=False, sort=False).agg(
        draws=("draw", "size"),
        D_last=("logarithm", "mean"),
        log_D_spread=("logarithm", "std"),
        change=("square", "mean"),
        r=("r", "mean"),
        r_spread=("r", "std"),
        train_accuracy=("train_accuracy", "mean"),
        test_accuracy=("test_accuracy", "mean"),
        test_accuracy_spread=("test_accuracy", "std"),
    )
    rows = rows.assign(D_last=np.exp(rows["D_last"]), change=np.sqrt(rows["change"]))
    return rows.reset_index()


def _layer_rows(named: Mapping[str, Any], record: LayerRecord) -> list[dict[str, Any]]:
    return [
        {**named} | {"layer": layer, "name": name, "D": value}
        for layer, (name, value) in enumerate(zip(record.layers, record.fuzziness, strict=True))
    ]


def _find_records(points: Sequence[PlannedRun], source: str | Path | None) -> tuple[list[RunRecord | None], int]:
    """Return each point's record of the current protocol version, or None; and the number of runs of other versions."""
    keys = [(source or Path(point.config.results), config_hash(point.config)) for point in points]
    hashes: dict[str | Path, set[str]] = defaultdict(set)
    for place, science in keys:
        hashes[place].add(science)
    other_protocol = 0
    records: dict[tuple[str | Path, str], RunRecord] = {}
    for place, sciences in hashes.items():
        # A store without runs is valid, an explicitly named source that does not exist is an error.
        for record in read_records(place, sciences) if source else read_store(Path(place), sciences):
            # A run without a readable config may belong to another experiment.
            if not record.config:
                continue
            if record.config["protocol"] != PROTOCOL:
                other_protocol += 1
                continue
            key = (place, record.config["science"])
            if key in records:
                raise ConfigError(
                    f"runs {records[key].run} and {record.run} differ only in their data: remove one of them"
                )
            records[key] = record
    return [records.get(key) for key in keys], other_protocol
