"""wandb's logs as records: the binary format of a .wandb file, and the run that its entries describe."""

import json
import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equisep.measures import Epoch, LayerRecord, Measurement
from equisep.store.record import RunRecord, checked
from equisep.store.serialization import robustness_from_json

# A .wandb file: a header of 7 bytes, then blocks of 32 KiB in LevelDB's log format; the first includes the header.
_BLOCK = 32768
_HEADER = b":W&B"
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Log:
    """The content of a .wandb file. flaw: why it is incomplete, '' if it is not."""

    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    flaw: str


def read_log(path: Path) -> Log:
    """Return the content of a .wandb file, up to where it ends or is damaged."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    log = Log({}, {}, [], "")
    try:
        for content in _log_entries(path):
            entry = Record.FromString(content)
            for item in (*entry.run.config.update, *entry.config.update):
                _insert(log.config, item)
            for item in entry.summary.update:
                _insert(log.summary, item)
            if items := entry.history.item:
                log.rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    except (ValueError, TypeError, AttributeError, OSError, struct.error, DecodeError) as error:
        return replace(log, flaw=f"{path}: {error}")
    return log


def _insert(content: dict[str, Any], item: Any) -> None:
    keys = list(item.nested_key) or [item.key]
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = json.loads(item.value_json)


def _log_entries(path: Path) -> Iterator[bytes]:
    """Yield the entries of a .wandb file; raises ValueError if it is damaged or ends within an entry."""
    content = path.read_bytes()
    if not content.startswith(_HEADER):
        raise ValueError("not a wandb log")
    place, parts, kind = 7, b"", _FULL
    while place < len(content):
        if _BLOCK - place % _BLOCK < 7:
            # The rest of a block is padding where it is too short for an entry's header.
            place += _BLOCK - place % _BLOCK
            continue
        if len(content) - place < 7:
            raise ValueError("the log is cut off")
        checksum, length, kind = struct.unpack_from("<IHB", content, place)
        body = content[place + 7 : place + 7 + length]
        if len(body) < length:
            raise ValueError("the log is cut off")
        if zlib.crc32(content[place + 6 : place + 7 + length]) != checksum or not _FULL <= kind <= _LAST:
            raise ValueError("the log is damaged")
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts
        place += 7 + length
    if kind in (_FIRST, _MIDDLE):
        raise ValueError("the log is cut off")


def record_from_wandb(
    run: str, config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any], flaw: str = ""
) -> RunRecord:
    """Return the record of a run from its wandb config, history rows in order and summary."""
    # Earlier logs have what is measured under the name that is now that of a field.
    measured = "measured" if "measured" in config else "measures"
    plain = {key: _with_numbers(value) for key, value in config.items() if key not in ("_wandb", measured)}
    try:
        state = dict(summary.get("run", {"state": "interrupted"}))
        if state["state"] == "running":
            # A log does not show whether its writer is alive.
            state["state"] = "interrupted"
        values: dict[int, dict[str, Any]] = defaultdict(dict)
        for row in (row for row in rows if isinstance(row.get("epoch"), int)):
            values[row["epoch"]].update(row)
        names = [f"training/{name}" for name in ("loss", "accuracy", "learning_rate")]
        trained = [(epoch, row) for epoch, row in sorted(values.items()) if names[0] in row]
        epochs = tuple(Epoch(epoch, *(_number(row[name]) for name in names)) for epoch, row in trained)
        measures = {
            measure: Measurement(facts["settings"], tuple(_records_of(facts, values)))
            for measure, facts in sorted((config.get(measured) or {}).items())
        }
        texts = dict(summary.get("robustness", {}))
        robustness = {identity: robustness_from_json(text) for identity, text in sorted(texts.items())}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"not a run of this package ({type(error).__name__}: {error})"
        return checked(RunRecord(run, plain, {"state": "damaged"}, (), {}, {}, flaw or reason))
    return checked(RunRecord(run, plain, state, epochs, measures, robustness, flaw))


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


def _with_numbers(value: Any) -> Any:
    """Return a config with numeric keys, which JSON stores as text: learning rates by depth."""
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdecimal() else key: _with_numbers(item) for key, item in value.items()}


def _number(value: Any) -> float:
    """Return a logged number; wandb writes infinities and NaN as text, and omits missing values."""
    return math.nan if value is None else float(value)
