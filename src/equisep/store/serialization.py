"""Records as JSON and back, validated by pydantic: epochs, measurements, robustness results, tasks.

Invalid content raises ValueError with one line that names the field.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, make_dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from equisep.measures import Epoch, LayerRecord, Measurement, PerturbationResult, RobustnessResults

T = TypeVar("T")


@dataclass(frozen=True)
class Submitted:
    """The SLURM task that a run was submitted to. task: its id. submission: the unique name of its job."""

    task: str
    submission: str


@dataclass(frozen=True)
class _StoredMeasurement:
    measure: dict[str, Any]
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class _StoredRobustness:
    robustness: dict[str, Any]
    cells: tuple[PerturbationResult, ...]


class Reader(Generic[T]):
    """Reads values of one type from JSON or plain containers."""

    def __init__(self, kind: Any) -> None:
        self.adapter: TypeAdapter[T] = TypeAdapter(kind)

    def parse(self, content: bytes | str) -> T:
        """Return the value of JSON text; raises ValueError."""
        return self._validated(self.adapter.validate_json, content)

    def check(self, content: Any) -> T:
        """Return the value of plain containers; raises ValueError."""
        return self._validated(self.adapter.validate_python, content)

    def _validated(self, validate: Callable[[Any], T], content: Any) -> T:
        try:
            return validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            location = ".".join(map(str, first["loc"]))
            raise ValueError(f"{location}: {first['msg']}" if location else str(first["msg"])) from None


EPOCHS: Reader[list[Epoch]] = Reader(list[Epoch])
SUBMITTED: Reader[Submitted] = Reader(Submitted)
_MEASUREMENT: Reader[_StoredMeasurement] = Reader(_StoredMeasurement)
_ROBUSTNESS: Reader[_StoredRobustness] = Reader(_StoredRobustness)


# The fields of a stored configuration and of a stored state that every reader of a record relies on.
_PARTS: dict[str, dict[str, Any]] = {
    "architecture": {"family": str},
    "dataset": {"name": str, "size": int | None, "sizes": list[int] | None},
    "optimizer": {"kind": str, "learning_rate": float, "momentum": float},
    "training": {"epochs": int, "snapshots": list[int], "phases": list[Any]},
    "measure": {"view": str},
    "data": {"train_images": int, "test_images": int},
}
_FIELDS: dict[str, Any] = {"seed": int, "science": str, "protocol": int, "experiment": str | None}
_PART_TYPES = {name: make_dataclass(name, part.items()) for name, part in _PARTS.items()}
CONFIG: Reader[Any] = Reader(make_dataclass("Config", (_PART_TYPES | _FIELDS).items()))
_STATES = Literal["new", "running", "interrupted", "failed", "done", "diverged"]
_OPTIONAL = [("machine", dict[str, Any] | None, None), ("seconds", float | None, None)]
STATE: Reader[Any] = Reader(make_dataclass("State", [("state", _STATES), *_OPTIONAL]))


def measurement_to_json(settings: Mapping[str, Any], records: Sequence[LayerRecord]) -> str:
    """Return a measurement as JSON, its records ordered by epoch and split."""
    ordered = sorted(records, key=lambda record: (record.epoch, record.split))
    return json.dumps({"measure": settings, "records": [asdict(record) for record in ordered]})


def measurement_from_json(content: bytes | str) -> Measurement:
    """Return what :func:`measurement_to_json` wrote; raises ValueError."""
    stored = _MEASUREMENT.parse(content)
    return Measurement(stored.measure, stored.records)


def robustness_to_json(robustness: RobustnessResults) -> str:
    """Return a robustness evaluation as JSON."""
    return json.dumps({"robustness": robustness.settings, "cells": [asdict(result) for result in robustness.results]})


def robustness_from_json(content: bytes | str) -> RobustnessResults:
    """Return what :func:`robustness_to_json` wrote; raises ValueError."""
    stored = _ROBUSTNESS.parse(content)
    return RobustnessResults(stored.robustness, stored.cells)
