"""The runs of a source as tidy tables."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from equisep.config import NOT_MEASURE, Measure, convention_of
from equisep.measures import Epoch, LayerRecord, fit_law
from equisep.store.own_table import is_own_table, read_own_table
from equisep.store.readers import read_records
from equisep.store.record import RunRecord

PERTURBED = (
    *("run", "robustness", "kind", "strength", "layer", "draw"),
    *("D_last", "r", "train_accuracy", "test_accuracy"),
)
RUN = ("run", "state", "flaw", "protocol")
NUMBERS = ("D", "NC1", "ratio", "loss", "accuracy", "training_loss", "training_accuracy")
MEASURED = ("measure", "epoch", "split", "layer", "name", "rank", *NUMBERS)
LAW = (
    *("measure", "epoch", "split", "D_first", "D_last"),
    *("r", "decay_ratio", "half_life", "residual", "curvature", "loss", "accuracy"),
)
MACHINE = ("engine", "commit", "torch", "processor", "lock")
SETTINGS = tuple(field.name for field in fields(Measure) if field.name not in NOT_MEASURE)
# Of fields that the settings of a measure leave out at this value.
DEFAULTS = {"order": "stored", "order_seed": 0, "permutation_seed": None}


def load_runs(source: str | Path) -> pd.DataFrame:
    """Return all runs of a source as one table: a row per run, measure, epoch, split and layer.

    Columns: run, state, flaw, protocol; convention (of the row's measure: paper, evaluation, …); the configuration, one
    column per field, named as on the command line (``architecture.depth``, ``measure.view``, …); epoch, split, layer (0
    is the input), name;
    D (separation fuzziness), NC1 (D/K), ratio (ρ_l = D_l/D_{l−1}; NaN for the input), rank (of SS_b); loss and accuracy
    of that split in evaluation mode; training_loss and training_accuracy of the epoch's steps (NaN at epoch 0);
    seconds, ended, engine, commit, torch, processor, lock (NaN where not recorded). Loss in nats, accuracy 0 … 1, time
    in seconds. A run without any measure has one row, with NaN in the columns of measurements.

    A source that is a table of one's own (a .csv, .parquet or .jsonl file with the columns layer and D) is returned
    with those of these columns that it can have, see :func:`equisep.store.own_table.read_own_table`. Raises ConfigError
    if the source is not valid.
    """
    if is_own_table(source):
        return read_own_table(source)
    return tabulate(read_records(source))


def load_laws(source: str | Path) -> pd.DataFrame:
    """Return the laws of all runs of a source: a row per run, measure, epoch and split.

    Columns: run, state, flaw, protocol, measure, epoch, split; D_first, D_last; r, decay_ratio, half_life (layers),
    residual and curvature (both relative to the fall of log D), see :class:`equisep.Law`, NaN if D of a layer is not
    positive; loss (nats), accuracy (0 … 1) of the split in evaluation mode; then the columns of :func:`load_runs` for
    the convention, the configuration, times and machine. Runs without a measure have no row; a table of one's own has
    no configuration. Raises ConfigError.
    """
    if is_own_table(source):
        return _laws_of(read_own_table(source))
    records = list(read_records(source))
    rows, places, settings = [], [], []
    for place, record in enumerate(records):
        for measure, measurement in record.measures.items():
            for layers in measurement.records:
                ends = (layers.fuzziness[0], layers.fuzziness[-1])
                rows.append((measure, layers.epoch, layers.split, *ends, *_fit(layers), layers.loss, layers.accuracy))
                places.append(place)
                settings.append(measurement.settings)
    return _with_configuration(pd.DataFrame(rows, columns=list(LAW)), records, places, settings)


def _laws_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the laws of a table of one's own, with the columns that are equal in all rows of a law."""
    telling = ["run", "measure", "epoch", "split", "convention"]
    rows = []
    for key, layers in table.sort_values([*telling, "layer"]).groupby(telling, sort=False):
        values = layers["D"].tolist()
        law = dict(zip(("r", "decay_ratio", "half_life", "residual", "curvature"), _law_of(values), strict=True))
        shared = {str(name): layers[name].iloc[0] for name in layers if layers[name].nunique(dropna=False) == 1}
        rows.append(shared | dict(zip(telling, key, strict=True)) | {"D_first": values[0], "D_last": values[-1]} | law)
    laws = pd.DataFrame(rows)
    return laws.drop(columns=[name for name in ("layer", "name", "D", "ratio", "rank") if name in laws])


def _law_of(fuzziness: Sequence[float]) -> tuple[float, ...]:
    """Return r, decay ratio, half-life, residual and curvature of the law through D, NaN if there is none."""
    try:
        law = fit_law(fuzziness)
    except ValueError:
        return (math.nan,) * 5
    return (law.pearson_r, law.decay_ratio, law.half_life, law.relative_residual, law.relative_curvature)


def tabulate(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return records as one tidy table; see :func:`load_runs`."""
    records = list(records)
    rows: dict[str, list[Any]] = {name: [] for name in ("place", *MEASURED)}
    settings: list[Mapping[str, Any]] = []
    for place, record in enumerate(records):
        epochs = {epoch.epoch: epoch for epoch in record.epochs}
        rows_before = len(settings)
        for measure, measurement in record.measures.items():
            for layers in measurement.records:
                _add_layers(rows, place, measure, layers, epochs.get(layers.epoch))
                settings += [measurement.settings] * len(layers.layers)
        if len(settings) == rows_before:
            for name, column in rows.items():
                column.append(place if name == "place" else None)
            settings.append({})
    table = pd.DataFrame({name: rows[name] for name in MEASURED}).astype(dict.fromkeys(NUMBERS, float))
    return _with_configuration(table, records, rows["place"], settings)


def _fit(record: LayerRecord) -> tuple[float, ...]:
    """Return r, decay ratio, half-life, residual and curvature of a record's law, NaN if there is none."""
    return _law_of(record.fuzziness)


def _with_configuration(
    table: pd.DataFrame,
    records: Sequence[RunRecord],
    places: Sequence[int],
    settings: Sequence[Mapping[str, Any]],
) -> pd.DataFrame:
    """Return a table with the columns of its runs. places: of the record, and settings: of the measure, of each row."""
    runs = _describe_runs(records).iloc[list(places)].reset_index(drop=True)
    # All columns exist even where nothing is measured yet.
    complete = [DEFAULTS | dict(setting) if setting else {} for setting in settings]
    measures = pd.DataFrame(complete, columns=list(SETTINGS)).add_prefix("measure.")
    measures.insert(0, "convention", [convention_of(setting) if setting else None for setting in settings])
    return pd.concat([runs[list(RUN)], table, measures, runs.drop(columns=list(RUN))], axis=1)


def tabulate_robustness(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return the robustness results of runs: a row per run, settings, kind, strength, layer and draw.

    Columns: run, robustness (id of the settings), kind, strength, layer (NaN: all or none), draw, D_last, r,
    train_accuracy, test_accuracy; NaN for values that a kind does not have.
    """
    rows = []
    for record in records:
        for identity, evaluation in record.robustness.items():
            for result in evaluation.results:
                layer = math.nan if result.layer is None else result.layer
                accuracies = result.train_accuracy, result.test_accuracy
                draws = itertools.zip_longest(result.last_fuzziness, result.r, *accuracies, fillvalue=math.nan)
                fixed = (record.run, identity, result.kind, result.strength, layer)
                rows += [(*fixed, draw, *values) for draw, values in enumerate(draws)]
    return pd.DataFrame(rows, columns=list(PERTURBED))


def _add_layers(
    rows: Mapping[str, list[Any]], place: int, measure: str, record: LayerRecord, epoch: Epoch | None
) -> None:
    """Add a record's layers to the columns of the table."""
    previous = [math.nan, *record.fuzziness[:-1]]
    ratios = [value / last if last else math.nan for value, last in zip(record.fuzziness, previous, strict=True)]
    columns: dict[str, Sequence[Any]] = {
        "layer": range(len(record.layers)),
        "name": record.layers,
        "D": record.fuzziness,
        "NC1": [value / record.classes for value in record.fuzziness],
        "ratio": ratios,
        "rank": record.rank,
    }
    fixed = {
        "place": place,
        "measure": measure,
        "epoch": record.epoch,
        "split": record.split,
        "loss": record.loss,
        "accuracy": record.accuracy,
        "training_loss": epoch.loss if epoch else math.nan,
        "training_accuracy": epoch.accuracy if epoch else math.nan,
    }
    for name in rows:
        rows[name] += columns[name] if name in columns else [fixed[name]] * len(record.layers)


def _describe_runs(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a row per run: id, state, flaw, times and machine, then its configuration."""
    rows, configs = [], []
    for record in records:
        machine = record.state.get("machine") or {}
        facts = {"run": record.run, "state": record.state["state"], "flaw": record.flaw}
        facts |= {name: record.state.get(name) for name in ("seconds", "ended")}
        rows.append(facts | {name: machine.get(name) for name in MACHINE})
        configs.append(
            {key: value for key, value in record.config.items() if key not in ("measure", "measures", "robustness")}
        )
    runs = pd.DataFrame(rows, columns=["run", "state", "flaw", "seconds", "ended", *MACHINE])
    described = pd.json_normalize(configs) if configs else pd.DataFrame()
    if "protocol" not in described:
        described["protocol"] = None
    return pd.concat([runs, described], axis=1)
