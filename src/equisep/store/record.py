"""What is recorded of one run, whichever source it was read from, and what makes a record unusable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, Literal

from equisep.measures import Epoch, Measurement, RobustnessResults
from equisep.store.run import FINISHED, refuse_later_protocol
from equisep.store.serialization import Reader


@dataclass(frozen=True)
class RunRecord:
    """What is recorded of one run.

    run: its id. config: the whole configuration, with digests and sizes of the data, the protocol version and, under
    "science", the config hash; empty where it cannot be read. state: new, running, interrupted, failed, done or
    diverged under "state", with seconds, end, machine and versions where they are known. measures, robustness:
    evaluations by id. flaw: what could not be read, for a person; '' for nothing.
    """

    run: str
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    measures: Mapping[str, Measurement]
    robustness: Mapping[str, RobustnessResults]
    flaw: str = ""


# The part of a stored configuration and of a stored state that every reader of a record relies on.
_PARTS: dict[str, dict[str, Any]] = {
    "architecture": {"family": str},
    "dataset": {"name": str, "size": int, "sizes": list[int] | None},
    "optimizer": {"kind": str, "learning_rate": float, "momentum": float},
    "training": {"epochs": int, "snapshots": list[int], "phases": list[Any]},
    "measure": {"view": str},
    "data": {"train_images": int, "test_images": int},
}
_FIELDS: dict[str, Any] = {"seed": int, "science": str, "protocol": int, "experiment": str | None}
_STATES = Literal["new", "running", "interrupted", "failed", "done", "diverged"]
_CONFIG: Reader[Any] = Reader(
    make_dataclass(
        "Config", [*((name, make_dataclass(name, part.items())) for name, part in _PARTS.items()), *_FIELDS.items()]
    )
)
_STATE: Reader[Any] = Reader(
    make_dataclass(
        "State", [("state", _STATES), ("machine", dict[str, Any] | None, None), ("seconds", float | None, None)]
    )
)


def checked(record: RunRecord) -> RunRecord:
    """Return a record that its readers can rely on: with a flaw where a part is missing or not valid.

    Raises LaterProtocol for a run that a later version of the package recorded.
    """
    refuse_later_protocol(record.run, record.config.get("protocol"))
    flaw_of_config = _flaw_of(_CONFIG, "config", record.config)
    flaw = record.flaw or flaw_of_config or _flaw_of(_STATE, "state", record.state) or _flaw_of_course(record)
    if not flaw:
        return record
    state = record.state if isinstance(record.state.get("state"), str) and not flaw_of_config else {"state": "damaged"}
    usable = {name: measurement for name, measurement in record.measures.items() if not _flaw_of_measure(measurement)}
    config = {} if flaw_of_config else record.config
    return replace(record, config=config, state=state, measures=usable, flaw=flaw)


def _flaw_of(model: Reader[Any], name: str, content: Mapping[str, Any]) -> str:
    try:
        model.check(dict(content))
    except ValueError as error:
        return f"{name}.{error}"
    return ""


def _flaw_of_course(record: RunRecord) -> str:
    """Return what is wrong with the course of a run whose config and state are valid, '' for nothing."""
    state, epochs = record.state["state"], record.config["training"]["epochs"]
    if state in FINISHED and record.state.get("seconds") is None:
        return "its state has no seconds"
    if state == "done" and len(record.epochs) != epochs:
        return f"it is done and has {len(record.epochs)} of {epochs} epochs"
    flaws = [_flaw_of_measure(measurement) for measurement in record.measures.values()]
    flaws += [_flaw_of_layers(record.config["architecture"], measurement) for measurement in record.measures.values()]
    return next(filter(None, flaws), "")


def _flaw_of_layers(architecture: Mapping[str, Any], measured: Measurement) -> str:
    """Return how many layers every record of a feed-forward network lacks, '' for none; of others that is not known."""
    if architecture["family"] != "fnn":
        return ""
    widths = architecture.get("widths")
    expected = len(widths) + 1 if widths else int(architecture["depth"])
    found = {len(taken.layers) for taken in measured.records} or {expected}
    return "" if found == {expected} else f"{min(found)} of {expected} layers are measured"


def _flaw_of_measure(measured: Measurement) -> str:
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
