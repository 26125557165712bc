"""The record of one run, whichever source it was read from, and the checks that make it usable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from equisep.measures import Epoch, Measurement, RobustnessResults
from equisep.store.run import FINISHED, refuse_later_protocol
from equisep.store.serialization import CONFIG, STATE, Reader


@dataclass(frozen=True)
class RunRecord:
    """What is recorded of one run.

    run: its id. config: the whole configuration, with digests and sizes of the data, the protocol version and, under
    "science", the config hash; empty if it cannot be read. state: new, running, interrupted, failed, done, diverged or
    damaged under "state", with seconds, end, machine and versions where known. measures, robustness: evaluations by id.
    flaw: what could not be read, for the user; '' if nothing.
    """

    run: str
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    measures: Mapping[str, Measurement]
    robustness: Mapping[str, RobustnessResults]
    flaw: str = ""


def checked(record: RunRecord) -> RunRecord:
    """Return a record that readers can rely on, with a flaw where a part is missing or invalid.

    Raises LaterProtocol for a run that a later version of the package recorded.
    """
    refuse_later_protocol(record.run, record.config.get("protocol"))
    config_flaw = _flaw_of(CONFIG, "config", record.config)
    flaw = record.flaw or config_flaw or _flaw_of(STATE, "state", record.state) or _flaw_of_results(record)
    if not flaw:
        return record
    state = record.state if isinstance(record.state.get("state"), str) and not config_flaw else {"state": "damaged"}
    usable = {name: measurement for name, measurement in record.measures.items() if not _flaw_of_measure(measurement)}
    return replace(record, config={} if config_flaw else record.config, state=state, measures=usable, flaw=flaw)


def _flaw_of(model: Reader[Any], name: str, content: Mapping[str, Any]) -> str:
    try:
        model.check(dict(content))
    except ValueError as error:
        return f"{name}.{error}"
    return ""


def _flaw_of_results(record: RunRecord) -> str:
    """Return what is inconsistent in a run with valid config and state, '' if nothing."""
    state, epochs = record.state["state"], record.config["training"]["epochs"]
    if state in FINISHED and record.state.get("seconds") is None:
        return "its state has no seconds"
    if state == "done" and len(record.epochs) != epochs:
        return f"it is done and has {len(record.epochs)} of {epochs} epochs"
    # Earlier versions did not record the number.
    recorded = record.state.get("epochs", len(record.epochs))
    if state in FINISHED and len(record.epochs) != recorded:
        return f"it is {state} and has {len(record.epochs)} of {recorded} epochs"
    flaws = [_flaw_of_measure(measurement) for measurement in record.measures.values()]
    flaws += [_flaw_of_layers(record.config["architecture"], measurement) for measurement in record.measures.values()]
    return next(filter(None, flaws), "")


def _flaw_of_layers(architecture: Mapping[str, Any], measurement: Measurement) -> str:
    """Return which layers are missing from a feed-forward network's records, '' if none; other families pass."""
    if architecture["family"] != "fnn":
        return ""
    widths = architecture.get("widths")
    expected = len(widths) + 1 if widths else int(architecture["depth"])
    measured = min((len(record.layers) for record in measurement.records), default=expected)
    return "" if measured == expected else f"{measured} of {expected} layers are measured"


def _flaw_of_measure(measurement: Measurement) -> str:
    """Return what is wrong with a measurement: no settings, a missing layer or a missing D; '' if nothing."""
    if not isinstance(measurement.settings, Mapping) or "view" not in measurement.settings:
        return "a measure has no settings"
    for record in measurement.records:
        where = f"epoch {record.epoch}, {record.split}"
        if len(record.layers) < 2 or record.classes < 2:
            return f"{where}: {len(record.layers)} layers and {record.classes} classes"
        complete = len(record.layers) == len(record.fuzziness) == len(record.rank)
        if not complete or record.layers != measurement.records[0].layers:
            return f"{where}: a layer is missing"
        for layer, value in enumerate(record.fuzziness):
            if not isinstance(value, int | float) or math.isnan(value):
                return f"{where}: layer {layer} has no D"
    return ""
