"""The runs of a source as tidy tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from equisep.config import NOT_MEASURE, Measure
from equisep.measures import Epoch, LayerRecord
from equisep.store.readers import read_records
from equisep.store.record import RunRecord

PERTURBED = (
    *("run", "robustness", "kind", "strength", "layer", "draw"),
    *("D_last", "r", "train_accuracy", "test_accuracy"),
)
RUN = ("run", "state", "flaw", "protocol")
NUMBERS = ("D", "NC1", "ratio", "loss", "accuracy", "training_loss", "training_accuracy")
MEASURED = ("measure", "epoch", "split", "layer", "name", "rank", *NUMBERS)
MACHINE = ("commit", "torch", "processor")
SETTINGS = tuple(field.name for field in fields(Measure) if field.name not in NOT_MEASURE)


def load_runs(source: str | Path) -> pd.DataFrame:
    """Return all runs of a source as one table: a row per run, measure, epoch, split and layer.

    Columns: run, state, flaw, protocol; the configuration, a column a field, named as on the command line
    (``architecture.depth``, ``measure.view`` of the row's measure, …); epoch, split, layer (0 is the input), name;
    D (separation fuzziness), NC1 (D/K), ratio (ρ_l = D_l/D_{l−1}; NaN for the input), rank (of SS_b); loss and accuracy
    of that split in evaluation mode; training_loss and training_accuracy of the epoch's steps (NaN at epoch 0);
    seconds, ended, commit, torch, processor. Loss in nats, accuracy 0 … 1, time in seconds. A run without any
    measure has one row of which epoch and all that follows are NaN.

    Raises ConfigError for a source that is none.
    """
    return tabulate(read_records(source))


def tabulate(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return records as one tidy table; see :func:`load_runs`."""
    kept = list(records)
    rows: dict[str, list[Any]] = {name: [] for name in ("place", *MEASURED)}
    settings: list[Mapping[str, Any]] = []
    for place, record in enumerate(kept):
        trained = {epoch.epoch: epoch for epoch in record.epochs}
        before = len(rows["place"])
        for measure, measured in record.measures.items():
            for taken in measured.records:
                _add_layers(rows, place, measure, taken, trained.get(taken.epoch))
                settings += [measured.settings] * len(taken.layers)
        if len(rows["place"]) == before:
            rows["place"].append(place)
            for name in MEASURED:
                rows[name].append(None)
            settings.append({})
    table = pd.DataFrame({name: rows[name] for name in MEASURED}).astype(dict.fromkeys(NUMBERS, float))
    told = _describe_runs(kept).iloc[rows["place"]].reset_index(drop=True)
    # The columns are there also where nothing is measured yet.
    taken_as = pd.DataFrame(settings, columns=list(SETTINGS)).add_prefix("measure.")
    return pd.concat([told[list(RUN)], table, taken_as, told.drop(columns=list(RUN))], axis=1)


def tabulate_robustness(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return what perturbations did to networks: a row per run, settings, kind, strength, layer and draw.

    Columns: run, robustness (id of the settings), kind, strength, layer (NaN: all or none), draw, D_last, r,
    train_accuracy, test_accuracy; NaN for what is not taken of a kind.
    """
    rows: dict[str, list[Any]] = {name: [] for name in PERTURBED}
    for record in records:
        for identity, perturbed in record.robustness.items():
            for cell in perturbed.results:
                draws = max(len(cell.last_fuzziness), len(cell.test_accuracy))
                columns: dict[str, Sequence[Any]] = {
                    "draw": range(draws),
                    "D_last": cell.last_fuzziness,
                    "r": cell.r,
                    "train_accuracy": cell.train_accuracy,
                    "test_accuracy": cell.test_accuracy,
                }
                layer = math.nan if cell.layer is None else cell.layer
                fixed = {"run": record.run, "robustness": identity, "kind": cell.kind, "strength": cell.strength}
                for name in PERTURBED:
                    values = columns.get(name, [(fixed | {"layer": layer}).get(name)] * draws)
                    rows[name] += [*values, *[math.nan] * (draws - len(values))]
    return pd.DataFrame(rows)


def _add_layers(
    rows: Mapping[str, list[Any]], place: int, measure: str, record: LayerRecord, trained: Epoch | None
) -> None:
    """Add a record's layers to the columns of the table."""
    before = [math.nan, *record.fuzziness[:-1]]
    ratios = [value / last if last else math.nan for value, last in zip(record.fuzziness, before, strict=True)]
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
        "training_loss": trained.loss if trained else math.nan,
        "training_accuracy": trained.accuracy if trained else math.nan,
    }
    for name in rows:
        rows[name] += columns[name] if name in columns else [fixed[name]] * len(record.layers)


def _describe_runs(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a row per run: what it is, its configuration, how it went."""
    configs = [
        {key: value for key, value in record.config.items() if key not in ("measure", "robustness")}
        for record in records
    ]
    rows = []
    for record in records:
        machine = record.state.get("machine") or {}
        facts = {"run": record.run, "state": record.state["state"], "flaw": record.flaw}
        facts |= {name: record.state.get(name) for name in ("seconds", "ended")}
        rows.append(facts | {name: machine.get(name) for name in MACHINE})
    told = pd.DataFrame(rows, columns=["run", "state", "flaw", "seconds", "ended", *MACHINE])
    described = pd.json_normalize(configs) if configs else pd.DataFrame()
    if "protocol" not in described:
        described["protocol"] = None
    return pd.concat([told, described], axis=1)
