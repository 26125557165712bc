"""The law of any runs: log D against layer, of a store, of wandb's logs or of a table of one's own.

``equisep figure law [source=SOURCE] [by=COLUMN] [epoch=NUMBER] [results=FOLDER]`` draws the last epoch of each run, or
``epoch``, a panel for each value of ``by``, by default for each run. There is no claim.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from equisep.analysis.claims import name_value, no_claim
from equisep.analysis.figures.panels import LAWS, Part, law_grid
from equisep.analysis.result import Result
from equisep.analysis.tables import LAYER_COLUMNS, RUN_COLUMNS, Tables
from equisep.analysis.verdicts import NO_CLAIM, Verdict
from equisep.config import ConfigError, compose_config, conventions, nearest
from equisep.measures import fit_law
from equisep.plots import style
from equisep.store import OWN, load_runs

NAME = "law"
OPTIONS = ("source", "by", "epoch", "results")
# Panels of one figure, and runs that have one each where nothing is said.
MAX_PANELS = 40
# Stands for a loss that is not told, so that its network is drawn.
NO_LOSS = -1.0


def main(words: Sequence[str]) -> int:
    """Draw the figure; return the exit code, 2 if the arguments are invalid."""
    try:
        options = _options(words)
        results = Path(compose_config([word for word in words if word.startswith("results=")]).results)
        result = make(load_runs(options.get("source", results)), options.get("by"), options.get("epoch"), words)
        result.write(results)
    except ConfigError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    return 0


def _options(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, value in pairs:
        if name not in OPTIONS or not equals or not value or sum(one[0] == name for one in pairs) > 1:
            word = f"{name}{equals}{value}"
            raise ConfigError(f"{word}: use source=SOURCE, by=COLUMN, epoch=NUMBER and results=FOLDER, once each")
    return {name: value for name, _, value in pairs}


def make(runs: pd.DataFrame, by: str | None = None, epoch: str | None = None, call: Sequence[str] = ()) -> Result:
    """Return the figure with tables of the laws and of the layers, for a table of :func:`equisep.load_runs`.

    Raises ConfigError for a column or an epoch that is not there, and if nothing is measured.
    """
    layers = runs[runs["measure"].notna() & (runs["split"] == "train")]
    # A line through the other layers would be another one.
    whole = layers.groupby(["run", "measure", "convention", "epoch"])["D"].transform(
        lambda values: values.notna().all()
    )
    left_out = layers.loc[~whole, "run"].nunique()
    layers = layers[whole]
    if layers.empty:
        raise ConfigError("source: no D of a training set is recorded" + (" for all layers" if left_out else ""))
    if epoch is not None:
        known = sorted(set(layers["epoch"]))
        if not epoch.isdigit() or int(epoch) not in known:
            raise ConfigError(f"epoch={epoch}: not measured; choose one of {', '.join(f'{one:g}' for one in known)}")
        layers = layers[layers["epoch"] == int(epoch)]
    else:
        layers = layers[layers["epoch"] == layers.groupby(["run", "convention"])["epoch"].transform("max")]
    column = by or "run"
    if column not in layers:
        raise ConfigError(f"by={column}: no such column{nearest(column, map(str, layers))}")
    named = layers.assign(panel=layers[column].map(lambda value: _title(column, value)))
    telling = ["run", "measure", "convention", "epoch"]
    # Networks of one panel have equally many layers.
    points = named.groupby(telling)["layer"].transform("size")
    mixed = points.groupby(named["panel"]).transform("nunique") > 1
    named["panel"] += (", " + points.map(str) + " points").where(mixed, "")
    if named["panel"].nunique() > MAX_PANELS:
        count = named["panel"].nunique()
        raise ConfigError(f"by={column}: {count} panels, at most {MAX_PANELS}; choose a column with fewer values")
    tables = _tables(named, telling)
    ordered = sorted(tables.conventions, key=lambda name: [*conventions(), name].index(name))
    parts = {name: Part(tables.under(name), tables.under(name).runs) for name in ordered}
    with style():
        figure = law_grid(parts, "panel") if tables.runs["r"].notna().any() else None
    counted = tables.runs["run"].nunique()
    scope = f"Scope: {counted} network{'s' if counted != 1 else ''}; {tables.runs['points'].max():g} points at most."
    epochs = tables.runs["epoch"]
    scope += f" Epoch {epochs.min():g}" + (f" to {epochs.max():g}" if epochs.nunique() > 1 else "") + "."
    if left_out:
        scope += f" Left out: {left_out} run{'s' if left_out != 1 else ''} in which a layer has no D."
    verdicts = {name: Verdict(no_claim(NAME), NO_CLAIM, (), {}) for name in parts}
    # How a table of the user's own was measured is not known here.
    drawn = "Log D of the training set against layer, with the fitted line and its residuals." if OWN in parts else LAWS
    shows = f"A panel for each {column}. {drawn}"
    if figure is None:
        scope += " No picture: it needs D of two layers, positive and finite."
    # Of what the source does not have, the drawing's substitutes are not written.
    unknown = [
        own
        for own, field in (("train_loss", "loss"), ("seed", "seed"))
        if field not in layers or layers[field].isna().all()
    ]
    stated = tables.runs.assign(train_loss=tables.runs["train_loss"].mask(tables.runs["train_loss"] == NO_LOSS))
    written = stated.drop(columns=unknown).dropna(axis="columns", how="all")
    contents = {"": written, "_layers": tables.layers}
    return Result(NAME, verdicts, figure, contents, scope, (), tuple(call), shows=shows)


def _title(column: str, value: object) -> str:
    """Return the title of a panel: "depth 8", "run 3a", "Adam"."""
    short = column.rsplit(".", maxsplit=1)[-1]
    if isinstance(value, int | float) and math.isfinite(value):
        return name_value(short, value)
    return str(value) if short == "run" else f"{short} {value}"


def _tables(layers: pd.DataFrame, telling: Sequence[str]) -> Tables:
    """Return the runs and layers as an experiment's tables, with the column ``panel``."""
    rows = []
    for key, one in layers.sort_values("layer").groupby(list(telling), sort=False):
        run, _, convention, epoch = key
        values = one["D"].tolist()
        first = one.iloc[0]
        row = dict.fromkeys(RUN_COLUMNS, math.nan) | {"panel": first["panel"], "run": run, "convention": convention}
        row |= {"epoch": epoch, "view": first.get("measure.view", "layer"), "seed": first.get("seed", run)}
        row |= {"points": len(values), "D_first": values[0], "D_last": values[-1], "train_accuracy": first["accuracy"]}
        # A network of the user's own need not have a loss.
        row |= {"train_loss": first["loss"] if pd.notna(first["loss"]) else NO_LOSS}
        row |= {"learning_rate": first.get("optimizer.learning_rate", math.nan)}
        try:
            law = fit_law(values)
            row |= {"r": law.pearson_r, "decay_ratio": law.decay_ratio, "half_life": law.half_life}
            row |= {"relative_residual": law.relative_residual, "relative_curvature": law.relative_curvature}
            row |= {"log_ratio_cv": law.log_ratio_cv}
        except ValueError:
            pass
        rows.append(row)
    runs = pd.DataFrame(rows, columns=["panel", *RUN_COLUMNS])
    kept = layers.merge(
        runs[["run", "convention", "epoch", "view"]].drop_duplicates(), on=["run", "convention", "epoch"]
    )
    return Tables(runs, kept[list(LAYER_COLUMNS)], 0)
