"""Runs as they were recorded, read back from wherever they were logged, and as one tidy table.

A source is a results folder (the store), a folder of wandb logs (RESULTS/wandb, offline or synced), or a wandb
project, ``wandb:ENTITY/PROJECT``. What was read is the same whichever it is: :class:`RunRecord`.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from equisep.runs import FINISHED, DamagedRun, LayerRecord, Measured, Perturbed, Run, all_runs
from equisep.schema import NOT_MEASURE, ConfigError, Measure
from equisep.training import Epoch

PROJECT = "wandb:"


@dataclass(frozen=True)
class RunRecord:
    """What is recorded of one run.

    run: its id. config: the whole configuration, with the digests and sizes of the data, the protocol version and
    the science's name; empty where it cannot be read. state: new, running, interrupted, failed, done or diverged under
    "state", with what is known of seconds, end, machine and versions. measures: by measure id; robustness: what
    perturbations did to the trained network, by their id. flaw: what could not be read, for a person; '' for nothing.
    """

    run: str
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    measures: Mapping[str, Measured]
    robustness: Mapping[str, Perturbed]
    flaw: str = ""


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


def read_records(source: str | Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield what a source has of each run, by id; of those of the sciences ``wanted`` alone, where given.

    Raises ConfigError for a source that is none.
    """
    if str(source).startswith(PROJECT):
        return read_project(str(source).removeprefix(PROJECT), wanted)
    folder = Path(source)
    if (folder / "runs").is_dir():
        return read_store(folder, wanted)
    if any(_segments(folder)):
        return read_logs(folder, wanted)
    raise ConfigError(
        f"source={source}: neither a results folder (runs/) nor a folder of wandb logs (offline-run-…/) nor "
        f"{PROJECT}ENTITY/PROJECT"
    )


def read_store(results: Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of the store below a results folder."""
    for run in all_runs(results):
        record = read_run(run)
        if wanted is None or not record.config or record.config["science"] in wanted:
            yield record


def read_run(run: Run) -> RunRecord:
    """Return what the store has of a run; a file that cannot be read is its flaw."""
    config: Mapping[str, Any] = {}
    try:
        config = run.config()
        measures, robustness = run.load_measures(), run.load_robustness()
        return _checked(RunRecord(run.id, config, run.state(), tuple(run.epochs()), measures, robustness))
    except DamagedRun as error:
        return _checked(RunRecord(run.id, config, {"state": "damaged"}, (), {}, {}, str(error)))


def read_logs(folder: Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a folder of wandb logs; the segments of one run, of which later ones prevail, are one."""
    segments: dict[str, list[Path]] = defaultdict(list)
    for path in _segments(folder):
        segments[path.stem.removeprefix("run-")].append(path)
    for run, paths in sorted(segments.items()):
        # Every segment tells the whole run again, up to its own end: the last that is whole tells it, or the last.
        told = [_read_segment(run, path) for path in paths]
        whole = [record for record in told if not record.flaw and record.state["state"] in FINISHED]
        record = (whole or told)[-1]
        if wanted is None or not record.config or record.config["science"] in wanted:
            yield record


def _segments(folder: Path) -> Iterator[Path]:
    """Yield the .wandb files below a folder in the order in which they were begun, which their folders' names tell."""
    yield from sorted(folder.glob("*run-*-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


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
            for cell in perturbed.cells:
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


PERTURBED = (
    *("run", "robustness", "kind", "strength", "layer", "draw"),
    *("D_last", "r", "train_accuracy", "test_accuracy"),
)
RUN = ("run", "state", "flaw", "protocol")
NUMBERS = ("D", "NC1", "ratio", "loss", "accuracy", "training_loss", "training_accuracy")
MEASURED = ("measure", "epoch", "split", "layer", "name", "rank", *NUMBERS)
MACHINE = ("commit", "torch", "processor")
SETTINGS = tuple(field.name for field in fields(Measure) if field.name not in NOT_MEASURE)


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


def read_project(project: str, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a wandb project, ENTITY/PROJECT, through wandb's public API.

    The server is the one wandb is logged in to (WANDB_BASE_URL, WANDB_API_KEY). Raises ConfigError in one line where
    there is no account, no such project or no answer.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise ConfigError(f"source={PROJECT}{project}: give {PROJECT}ENTITY/PROJECT")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # Raised by the reading of a history, and no wandb.Error.
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    # Silent: no question to the terminal. wandb's own patience with a server that does not answer is hours.
    seconds = 20
    patience = {"x_graphql_retry_max": 1, "x_graphql_timeout_seconds": seconds}
    waits = {"x_graphql_retry_wait_min_seconds": 1, "x_graphql_retry_wait_max_seconds": 1}
    wandb.setup(settings=wandb.Settings(silent=True, **patience, **waits))  # type: ignore[arg-type]
    try:
        api = wandb.Api(timeout=3 * seconds)
        runs = sorted(api.runs(project, per_page=50, lazy=False), key=lambda run: str(run.id))
        for run in runs:
            if wanted is not None and run.config.get("science") not in wanted:
                continue
            # Rows that the server has stored already and keeps in memory as well come twice.
            rows = {row["_step"]: row for row in run.scan_history(use_cache=False)}
            in_order = [rows[step] for step in sorted(rows)]
            yield record_from_wandb(str(run.id), run.config, in_order, _plain(run.summary))
    except (wandb.Error, WandbApiFailedError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"source={PROJECT}{project}: {reason} (an account is needed: `wandb login`, or WANDB_API_KEY)"
        ) from None


def _read_segment(run: str, path: Path) -> RunRecord:
    """Return what a .wandb file tells of a run, up to where it ends or is damaged."""
    log = read_log(path)
    return record_from_wandb(run, log.config, log.rows, log.summary, log.flaw)


@dataclass(frozen=True)
class Log:
    """What the entries of a .wandb file add up to. flaw: why they are not all, '' where they are."""

    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    flaw: str


def read_log(path: Path) -> Log:
    """Return the content of a .wandb file."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    flaw = ""
    try:
        for content in _log_entries(path):
            entry = Record.FromString(content)
            for item in (*entry.run.config.update, *entry.config.update):
                _place(config, item)
            for item in entry.summary.update:
                _place(summary, item)
            if entry.history.item:
                rows.append({_key(item): json.loads(item.value_json) for item in entry.history.item})
    except (ValueError, TypeError, AttributeError, OSError, struct.error, DecodeError) as error:
        flaw = f"{path}: {error}"
    return Log(config, summary, rows, flaw)


def _key(item: Any) -> str:
    return str(item.key) or "/".join(item.nested_key)


def _place(content: dict[str, Any], item: Any) -> None:
    keys = list(item.nested_key) or [item.key]
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = json.loads(item.value_json)


# A .wandb file: 7 bytes of header, then blocks of 32 KiB as LevelDB's log has them, the first with the header.
_BLOCK = 32768
_HEADER = b":W&B"
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def _log_entries(path: Path) -> Iterator[bytes]:
    """Yield the entries of a .wandb file; raises ValueError where it ends in the middle of one, or is damaged."""
    content = path.read_bytes()
    if not content.startswith(_HEADER):
        raise ValueError("not a wandb log")
    place, parts, kind = 7, b"", _FULL
    while place < len(content):
        if _BLOCK - place % _BLOCK < 7:
            # The rest of a block too short for an entry's head is padding.
            place += _BLOCK - place % _BLOCK
            continue
        if len(content) - place < 7:
            raise ValueError("the log is cut off")
        checksum, length, kind = struct.unpack_from("<IHB", content, place)
        body = content[place + 7 : place + 7 + length]
        if len(body) < length:
            raise ValueError("the log is cut off")
        if zlib.crc32(content[place + 6 : place + 7 + length]) != checksum or kind not in (
            _FULL,
            _FIRST,
            _MIDDLE,
            _LAST,
        ):
            raise ValueError("the log is damaged")
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts
        place += 7 + length
    if kind in (_FIRST, _MIDDLE):
        raise ValueError("the log is cut off")


def record_from_wandb(
    run: str,
    config: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    summary: Mapping[str, Any],
    flaw: str = "",
) -> RunRecord:
    """Return the record of a run from its wandb config, history rows in order and summary (see equisep.tracking)."""
    plain = {key: _with_numbers(value) for key, value in config.items() if key not in ("_wandb", "measures")}
    try:
        state = dict(summary.get("run", {"state": "interrupted"}))
        if state["state"] == "running":
            # A log does not tell whether its writer lives.
            state["state"] = "interrupted"
        values: dict[int, dict[str, Any]] = defaultdict(dict)
        for row in (row for row in rows if isinstance(row.get("epoch"), int)):
            values[row["epoch"]].update(row)
        epochs = tuple(_epoch_of(epoch, values[epoch]) for epoch in sorted(values) if "training/loss" in values[epoch])
        measures = {
            measure: Measured(facts["settings"], tuple(_records_of(facts, values)))
            for measure, facts in sorted(config.get("measures", {}).items())
        }
        told = dict(summary.get("robustness", {}))
        robustness = {identity: Perturbed.from_json(text) for identity, text in sorted(told.items())}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"not a run of this package's ({type(error).__name__}: {error})"
        return _checked(RunRecord(run, plain, {"state": "damaged"}, (), {}, {}, flaw or reason))
    return _checked(RunRecord(run, plain, state, epochs, measures, robustness, flaw))


def _epoch_of(epoch: int, row: Mapping[str, Any]) -> Epoch:
    return Epoch(epoch, *(_number(row[f"training/{name}"]) for name in ("loss", "accuracy", "learning_rate")))


def _records_of(facts: Mapping[str, Any], values: Mapping[int, Mapping[str, Any]]) -> Iterator[LayerRecord]:
    """Yield the records of a measure; a layer without a value of D has NaN."""
    layers = range(len(facts["layers"]))
    for epoch, split in sorted((epoch, split) for epoch in values for split in ("train", "test")):
        prefix, row = facts["prefix"] + split, values[epoch]
        if f"{prefix}/loss" in row:
            yield LayerRecord(
                epoch=epoch,
                split=split,
                layers=tuple(facts["layers"]),
                fuzziness=tuple(_number(row.get(f"{prefix}/D/{layer:02d}")) for layer in layers),
                rank=tuple(int(row.get(f"{prefix}/rank/{layer:02d}", 0)) for layer in layers),
                classes=int(facts["classes"]),
                loss=_number(row[f"{prefix}/loss"]),
                accuracy=_number(row[f"{prefix}/accuracy"]),
            )


# What every reader of a record relies on.
_PARTS = {
    "architecture": ("family",),
    "dataset": ("name", "size", "sizes"),
    "optimizer": ("kind", "learning_rate", "momentum"),
    "training": ("epochs", "snapshots", "phases"),
    "measure": ("view",),
    "data": ("train_images", "test_images"),
}
_FIELDS = ("seed", "science", "protocol", "experiment")


def _checked(record: RunRecord) -> RunRecord:
    """Return a record that its readers can rely on: with a flaw where a part is missing or makes no sense."""
    try:
        flaw = record.flaw or _flaw_of_config(record.config) or _flaw_of_course(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        flaw = f"its record makes no sense ({type(error).__name__}: {error})"
    if not flaw:
        return record
    readable = not _flaw_of_config(record.config)
    state = record.state if isinstance(record.state.get("state"), str) and readable else {"state": "damaged"}
    sound = {name: measured for name, measured in record.measures.items() if not _flaw_of_measure(measured)}
    return replace(record, config=record.config if readable else {}, state=state, measures=sound, flaw=flaw)


def _flaw_of_config(config: Mapping[str, Any]) -> str:
    absent = [name for name in _FIELDS if name not in config]
    for part, names in _PARTS.items():
        if not isinstance(config.get(part), Mapping):
            absent.append(part)
        else:
            absent += [f"{part}.{name}" for name in names if name not in config[part]]
    return f"its config lacks {absent[0]}" if absent else ""


def _flaw_of_course(record: RunRecord) -> str:
    """Return what is wrong with how a run went, '' for nothing."""
    if record.state.get("state") not in ("new", "running", "interrupted", "failed", *FINISHED):
        return f"its state is {record.state.get('state')!r}, which makes no sense"
    if not isinstance(record.state.get("machine") or {}, Mapping):
        return "its state names no machine"
    state, asked = record.state["state"], int(record.config["training"]["epochs"])
    if state in FINISHED and not isinstance(record.state.get("seconds"), int | float):
        return "its state tells no seconds"
    if state == "done" and len(record.epochs) != asked:
        return f"it is done and has {len(record.epochs)} of {asked} epochs"
    flaws = [_flaw_of_measure(measured) for measured in record.measures.values()]
    flaws += [_flaw_of_layers(record.config["architecture"], measured) for measured in record.measures.values()]
    return next(filter(None, flaws), "")


def _flaw_of_layers(architecture: Mapping[str, Any], measured: Measured) -> str:
    """Return how many layers every record of a feed-forward network lacks, '' for none; of others that is not known."""
    if architecture["family"] != "fnn":
        return ""
    widths = architecture.get("widths")
    expected = len(widths) + 1 if widths else int(architecture["depth"])
    found = {len(taken.layers) for taken in measured.records} or {expected}
    return "" if found == {expected} else f"{min(found)} of {expected} layers are measured"


def _flaw_of_measure(measured: Measured) -> str:
    """Return what is wrong with a measure's records: values that are none, a layer that one of them lacks."""
    if not isinstance(measured.settings, Mapping) or "view" not in measured.settings:
        return "a measure does not tell what it is"
    layers = {taken.layers for taken in measured.records}
    for taken in measured.records:
        where = f"epoch {taken.epoch}, {taken.split}"
        if len(taken.layers) < 2 or taken.classes < 2:
            return f"{where}: {len(taken.layers)} layers and {taken.classes} classes"
        if not len(taken.layers) == len(taken.fuzziness) == len(taken.rank) or len(layers) > 1:
            return f"{where}: a layer is missing"
        for layer, value in enumerate(taken.fuzziness):
            if not isinstance(value, int | float) or math.isnan(value):
                return f"{where}: layer {layer} has no D"
    return ""


def _plain(value: Any) -> Any:
    """Return a summary of wandb's, whose parts are mappings of its own, as plain containers."""
    return {key: _plain(item) for key, item in value.items()} if hasattr(value, "items") else value


def _with_numbers(value: Any) -> Any:
    """Return a config with the numbers as keys that JSON turned into text: learning rates by depth."""
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdecimal() else key: _with_numbers(item) for key, item in value.items()}


def _number(value: Any) -> float:
    """Return a logged number; wandb writes what JSON has no number for as text, and nothing for a missing one."""
    return math.nan if value is None else float(value)
