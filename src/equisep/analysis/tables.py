"""The recorded runs of an experiment as tables, written and read."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equisep.analysis.experiments import PlannedRun, last_epoch
from equisep.config import PROTOCOL, ConfigError, Training, config_hash, from_plain, measure_id, robustness_id
from equisep.measures import LayerRecord
from equisep.store import FINISHED, RunRecord, read_records, read_store, tabulate_robustness

# What a row of a table tells of a run, behind the columns of what varies.
RUN_COLUMNS = (
    *("run", "seed", "learning_rate", "view", "epoch", "r", "decay_ratio", "half_life", "relative_residual"),
    *("relative_curvature", "D_first", "D_last", "train_loss", "train_accuracy", "test_accuracy"),
    *("train_images", "test_images", "width_multiplier", "seconds", "ended", "commit", "torch", "processor"),
)
# A name of digits alone is no number.
TEXT_COLUMNS = ("run", "commit", "torch", "processor", "ended")
LAYER_COLUMNS = ("run", "view", "epoch", "layer", "name", "D")
PERTURBED_COLUMNS = (
    *("run", "kind", "strength", "layer", "draws"),
    *("D_last", "log_D_spread", "change", "r", "r_spread"),
    *("train_accuracy", "test_accuracy", "test_accuracy_spread"),
)


@dataclass(frozen=True)
class Tables:
    """An experiment's runs as found in the store.

    runs: a row per finished run, view and epoch: what varies, then RUN_COLUMNS; accuracies and loss in evaluation
    mode, test_accuracy where that epoch was measured on the test set. layers: a row per layer of each of those:
    LAYER_COLUMNS (training set). perturbed: where the experiment has perturbations, a row per run, kind, strength and
    layer: PERTURBED_COLUMNS, over draws the geometric mean of D_last, the root mean square change of its logarithm
    against the unperturbed network, means of the rest, and the standard deviations of log D_last, r and test accuracy.
    missing: how many runs that were asked for are not there, or not measured. flaws: which are left out since they
    cannot be read whole, and why. The row of a run that diverged holds NaN; that of one whose D has no logarithm NaN
    for what the law tells.
    """

    runs: pd.DataFrame
    layers: pd.DataFrame
    missing: int
    flaws: tuple[str, ...] = ()
    perturbed: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PERTURBED_COLUMNS)))

    def fuzziness(self, run: str, view: str, epoch: int) -> list[float]:
        """Return D of each layer of a run, the input first."""
        layers = self.layers
        chosen = (layers["run"] == run) & (layers["view"] == view) & (layers["epoch"] == epoch)
        return [float(value) for value in layers[chosen].sort_values("layer")["D"]]

    def curves(self, rows: pd.DataFrame) -> list[list[float]]:
        """Return D per layer of those of the rows of ``runs`` that did not diverge."""
        usable = rows[rows["train_loss"].notna()]
        places = zip(usable["run"], usable["view"], usable["epoch"], strict=True)
        return [self.fuzziness(*place) for place in places]


def save_tables(tables: Mapping[str, pd.DataFrame], folder: Path, name: str) -> list[Path]:
    """Write FOLDER/NAME.csv, FOLDER/NAME_layers.csv, …: a table by the ending of its name; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{ending}.csv" for ending in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        table.to_csv(path, index=False, float_format="%.9g")
    return paths


def load_tables(folder: Path, name: str) -> Tables:
    """Return tables that :func:`save_tables` wrote, whole; raises ConfigError where there are none, or others."""
    parts = [(folder / f"{name}.csv", RUN_COLUMNS), (folder / f"{name}_layers.csv", LAYER_COLUMNS)]
    beside = folder / f"{name}_perturbed.csv"
    parts += [(beside, PERTURBED_COLUMNS)] if beside.exists() else []
    tables = []
    for path, columns in parts:
        try:
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
        except FileNotFoundError:
            raise ConfigError(f"tables={folder}: no file {path}") from None
        except ValueError as error:
            raise ConfigError(f"tables={folder}: {path} cannot be read ({str(error).splitlines()[0]})") from None
        absent = [column for column in columns if column not in table]
        if absent:
            raise ConfigError(f"tables={folder}: {path} lacks the column {absent[0]}")
        tables.append(table)
    runs, layers, *perturbed = tables
    return Tables(runs, layers, 0, perturbed=perturbed[0]) if perturbed else Tables(runs, layers, 0)


def at_best_learning_rate(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the rows of ``runs`` at the learning rate with the lowest final training loss, in each condition.

    The loss is that of the last epoch in evaluation mode, its median over seeds; rates at which fewer seeds
    diverged come first, of equal losses the smaller rate. conditions: columns whose values make a condition.
    """
    last = runs[runs["epoch"] == runs.groupby("run")["epoch"].transform("max")]
    groups = [*conditions, "learning_rate"]
    by_rate = last.groupby(groups, sort=False)["train_loss"]
    ranked = by_rate.agg(diverged=lambda losses: losses.isna().sum(), loss="median").reset_index()
    ranked = ranked.sort_values(["diverged", "loss", "learning_rate"], kind="stable")
    best = ranked.drop_duplicates(list(conditions)) if conditions else ranked.head(1)
    return runs.merge(best[groups], on=groups, how="inner")


def collect_tables(
    points: Sequence[PlannedRun],
    epochs: Callable[[Training], Sequence[int]] = last_epoch,
    source: str | Path | None = None,
) -> Tables:
    """Return the finished runs of an experiment as tables; what is not there is counted, never trained.

    epochs: the measured epochs to tabulate. source: where the runs are read from, see :mod:`equisep.store.readers`; by
    default the store that the points name. Raises ConfigError for a source that is none, where a run keeps no snapshot
    of one of the epochs, or the source holds one of the runs on two data sets.
    """
    runs: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    perturbed: list[pd.DataFrame] = []
    flaws: list[str] = []
    missing = 0
    distinct = {(config_hash(point.config), point.config.measure.view): point for point in points}
    found, others = _find_records(list(distinct.values()), source)
    if others:
        flaws.append(f"Not among them: {others} runs of another protocol version than {PROTOCOL}.")
    for point, record in zip(distinct.values(), found, strict=True):
        if record is not None and record.flaw:
            flaws.append(f"Left out: run {record.run}, {record.flaw}.")
            continue
        if record is None or record.state["state"] not in FINISHED:
            missing += 1
            continue
        measured = record.measures.get(measure_id(point.config.measure))
        taken = {(layer.epoch, layer.split): layer for layer in measured.records} if measured else {}
        wanted = epochs(point.config.training)
        if record.state["state"] != "diverged":
            # Of the config it was begun with.
            lost = sorted(set(wanted) - set(from_plain(dict(record.config)).training.kept_epochs()))
            if lost:
                raise ConfigError(
                    f"run {record.run} keeps no snapshot of epoch {lost[0]}: remove it from the store, "
                    "and it is trained again with it"
                )
            splits = ("train", "test") if point.config.measure.test_every_snapshot else ("train",)
            if any((epoch, split) not in taken for epoch in wanted for split in splits):
                missing += 1
                continue
        if point.config.robustness is not None and record.state["state"] != "diverged":
            identity = robustness_id(point.config.robustness, point.config.measure)
            if identity not in record.robustness:
                missing += 1
                continue
            perturbed.append(_perturbed_rows(replace(record, robustness={identity: record.robustness[identity]})))
        for epoch in wanted:
            train, test = taken.get((epoch, "train")), taken.get((epoch, "test"))
            runs.append(point.varied | _row(point, record, epoch, train, test))
            layers += _layer_rows(record.run, point, train) if train else []
    varied = list(points[0].varied) if points else []
    return Tables(
        pd.DataFrame(runs, columns=[*varied, *RUN_COLUMNS]),
        pd.DataFrame(layers, columns=list(LAYER_COLUMNS)),
        missing,
        tuple(flaws),
        pd.concat(perturbed, ignore_index=True) if perturbed else pd.DataFrame(columns=list(PERTURBED_COLUMNS)),
    )


def _row(
    point: PlannedRun, record: RunRecord, epoch: int, train: LayerRecord | None, test: LayerRecord | None
) -> dict[str, Any]:
    law = train.law() if train else None
    data, state = record.config["data"], record.state
    figures = (
        record.run,
        point.config.seed,
        point.config.optimizer.learning_rate,
        point.config.measure.view,
        epoch,
        law.pearson_r if law else math.nan,
        law.decay_ratio if law else math.nan,
        law.half_life if law else math.nan,
        law.relative_residual if law else math.nan,
        law.relative_curvature if law else math.nan,
        train.fuzziness[0] if train else math.nan,
        train.fuzziness[-1] if train else math.nan,
        train.loss if train else math.nan,
        train.accuracy if train else math.nan,
        test.accuracy if test else math.nan,
        data["train_images"],
        data["test_images"],
        getattr(point.config.architecture, "width_multiplier", 1.0),
        state["seconds"],
        state.get("ended"),
        *(state["machine"][name] for name in ("commit", "torch", "processor")),
    )
    return dict(zip(RUN_COLUMNS, figures, strict=True))


def _perturbed_rows(record: RunRecord) -> pd.DataFrame:
    """Return what perturbations did to one run's network, over draws."""
    draws = tabulate_robustness([record])
    clean = float(draws.loc[draws["kind"] == "clean", "D_last"].iloc[0])
    with np.errstate(divide="ignore"):
        # Of a draw that leaves no spread within the classes it is minus infinity, and so is the mean.
        logarithms = np.log(draws["D_last"])
    draws = draws.assign(logarithm=logarithms, square=(logarithms - math.log(clean)) ** 2 if clean > 0 else math.nan)
    found = draws.groupby(["run", "kind", "strength", "layer"], dropna=False, sort=False).agg(
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
    found = found.assign(D_last=np.exp(found["D_last"]), change=np.sqrt(found["change"]))
    return found.reset_index()[list(PERTURBED_COLUMNS)]


def _layer_rows(run: str, point: PlannedRun, record: LayerRecord) -> list[dict[str, Any]]:
    start = {"run": run, "view": point.config.measure.view, "epoch": record.epoch}
    return [
        start | {"layer": layer, "name": name, "D": value}
        for layer, (name, value) in enumerate(zip(record.layers, record.fuzziness, strict=True))
    ]


def _find_records(points: Sequence[PlannedRun], source: str | Path | None) -> tuple[list[RunRecord | None], int]:
    """Return each point's record under the present protocol, or None; and how many there are under another one."""
    others = 0
    by_place: dict[str | Path, set[str]] = defaultdict(set)
    for point in points:
        by_place[source or Path(point.config.results)].add(config_hash(point.config))
    found: dict[tuple[str | Path, str], RunRecord] = {}
    for place, sciences in by_place.items():
        # A store that nothing was trained into yet is no error, a source that somebody named is.
        for record in read_records(place, sciences) if source else read_store(Path(place), sciences):
            # One without a config may be another experiment's; if it is one of these, the sweep that is told to
            # train it names it.
            if not record.config:
                continue
            if record.config["protocol"] != PROTOCOL:
                others += 1
                continue
            key = (place, record.config["science"])
            if key in found:
                raise ConfigError(
                    f"runs {found[key].run} and {record.run} differ in their data alone: remove one of them"
                )
            found[key] = record
    wanted = [(source or Path(point.config.results), config_hash(point.config)) for point in points]
    return [found.get(key) for key in wanted], others
