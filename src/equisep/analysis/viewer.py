"""The runs of a source in one file for a browser: a table to sort and filter, D against layer, training curves.

The file needs no server and no network. r and ρ are fitted in the page, for the epoch and the convention chosen there.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from equisep.analysis.pages import write_page
from equisep.config import ALL_CONVENTIONS, ConfigError, convention_of
from equisep.plots import IN_WORDS
from equisep.store import RunRecord, read_records

# Of a run's training curve; a picture shows no more.
MAX_POINTS = 120
# Significant digits of D: r is then that of the store to four decimals.
DIGITS = 6


def write_viewer(source: str | Path, results: Path) -> tuple[Path, list[str]]:
    """Write RESULTS/page.html with the runs of a source; return its path and notes: how many runs, which are left out.

    source: see :mod:`equisep.store.readers`. Raises ConfigError for an invalid source, one without runs, or a page that
    cannot be written.
    """
    records = list(read_records(source))
    runs = [describe_run(record) for record in records if record.config and record.epochs]
    absent = [record for record in records if not (record.config and record.epochs)]
    damaged = [record for record in absent if record.flaw]
    notes = [f"Damaged and left out: {len(damaged)}, such as {damaged[0].run} ({damaged[0].flaw})."] if damaged else []
    notes += [f"Without an epoch: {len(absent) - len(damaged)}."] if len(absent) > len(damaged) else []
    if not runs:
        raise ConfigError(" ".join([f"source={source}: contains no runs to show.", *notes]))
    # Within a script element only "<" could end it.
    data = Markup(json.dumps(runs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
    facts: dict[str, Any] = {"source": str(source), "written": time.strftime("%Y-%m-%d %H:%M"), "count": len(runs)}
    facts |= {"notes": notes, "labels": IN_WORDS, "everywhere": ALL_CONVENTIONS}
    path = write_page(results / "page.html", "viewer.html.j2", data=data, **facts)
    return path, [f"{len(runs)} run{'s' if len(runs) > 1 else ''}.", *notes]


def describe_run(record: RunRecord) -> dict[str, Any]:
    """Return what the page shows of a run, as plain values.

    fields: the columns of the table. measures: by convention, the epochs with D of each layer on the training set.
    training: epochs and losses, at most MAX_POINTS of each.
    """
    config = record.config
    architecture, optimizer, dataset = config["architecture"], config["optimizer"], config["dataset"]
    momentum = optimizer["kind"] == "sgd" and optimizer["momentum"] > 0
    labels = ", random labels" if dataset.get("label_seed") is not None else ""
    sizes = ", imbalanced" if isinstance(dataset.get("sizes"), list) else ""
    fields = {
        "run": record.run,
        "experiment": config["experiment"] or "",
        "network": _name_network(architecture),
        "depth": architecture.get("depth") or "",
        "width": architecture.get("width") or "",
        "data": f"{dataset['name']} {dataset['size']}{labels}{sizes}",
        "training": "two-stage" if config["training"].get("phases") else "joint",
        "optimizer": "momentum" if momentum else optimizer["kind"],
        "rate": optimizer["learning_rate"],
        "seed": config["seed"],
        "state": record.state["state"],
        "epochs": len(record.epochs),
    }
    same = not architecture.get("batch_norm", True)
    measures = {
        ALL_CONVENTIONS if same else _name_measure(measurement.settings): {
            "epochs": {one.epoch: [_rounded(value) for value in one.fuzziness] for one in records},
        }
        for measurement in record.measures.values()
        if (records := [one for one in measurement.records if one.split == "train"])
    }
    chosen = thin(record.epochs, MAX_POINTS)
    training = {
        "epoch": [one.epoch for one in chosen],
        "loss": [_rounded(one.loss) for one in chosen],
    }
    return {"fields": fields, "measures": measures, "training": training}


def _name_network(architecture: Mapping[str, Any]) -> str:
    """Return the family of a network with what distinguishes it: "fnn, layer norm", "fnn, linear"."""
    parts = [str(architecture["family"])]
    if not architecture.get("batch_norm", True):
        parts.append("layer norm" if architecture.get("norm") == "layer" else "no norm")
    parts += ["He initialisation"] if architecture.get("initialisation") else []
    parts += ["linear"] if architecture.get("activation", "relu") != "relu" else []
    parts += [f"widths {architecture['widths']}"] if architecture.get("widths") else []
    scale = architecture.get("width_multiplier", 1.0)
    return ", ".join([*parts, *([f"{scale:g} of the channels"] if scale != 1 else [])])


def _name_measure(settings: Mapping[str, Any]) -> str:
    """Return the name of a measure's convention, with what else differs from the usual measure."""
    others = [] if settings.get("view", "layer") == "layer" else [f"per {settings['view']}"]
    others += [f"{settings['components']} components"] if settings.get("components") else []
    seed = settings.get("permutation_seed")
    others += [] if seed is None else [f"layers permuted, {seed}"]
    return ", ".join([convention_of(settings), *others])


def thin(values: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` values, evenly spaced, with the first and the last."""
    if len(values) <= count:
        return list(values)
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]


def _rounded(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
