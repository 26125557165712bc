"""Tables written to files and read from them, with what is wrong with a file in one line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from equisep.analysis.tables import (
    DERIVED,
    LAYER_COLUMNS,
    PERMUTATION,
    PERTURBED_COLUMNS,
    RUN_COLUMNS,
    Tables,
    law_of_layers,
    with_derived,
)
from equisep.config import PAPER, ConfigError
from equisep.store import numbers_of

# Text even if it consists of digits.
TEXT_COLUMNS = ("run", "engine", "commit", "torch", "processor", "ended", "lock", "config")
# Columns of runs that were not always recorded.
ADDED = ("lock", "engine", "r_test", "decay_ratio_test", "config")
# Of r, ln ρ and ln D: what rounding to nine digits cannot explain.
TOLERANCE = 1e-4


def save_tables(tables: Mapping[str, pd.DataFrame], folder: Path, name: str) -> list[Path]:
    """Write tables, by the suffix of their name, as FOLDER/NAME.csv, FOLDER/NAME_layers.csv, …; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}.csv" for suffix in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        table.to_csv(path, index=False, float_format="%.9g")
    return paths


def load_tables(folder: Path, name: str) -> Tables:
    """Return tables that :func:`save_tables` wrote; raises ConfigError for missing or unreadable files or columns."""
    tables: dict[str, pd.DataFrame] = {}
    for suffix, columns in (("", RUN_COLUMNS), ("_layers", LAYER_COLUMNS), ("_perturbed", PERTURBED_COLUMNS)):
        path = folder / f"{name}{suffix}.csv"
        if suffix == "_perturbed" and not path.exists():
            continue
        try:
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise ConfigError(f"tables={folder}: {path} cannot be read ({reason})") from None
        if table.empty and suffix == "":
            raise ConfigError(f"tables={folder}: {path} has no rows")
        if suffix == "":
            # A varied field without a value, which pandas reads as a missing one.
            varied = {str(name): "null" for name in table if name not in RUN_COLUMNS}
            table = table.astype(dict.fromkeys(varied, object)).fillna(varied)
            # Runs did not always record these.
            table = table.assign(**{name: None for name in ADDED if name not in table})
        elif PERMUTATION in table:
            table = table.astype({PERMUTATION: object}).fillna({PERMUTATION: "null"})
        # The only one that there was.
        table = table if "convention" in table else table.assign(convention=PAPER)
        absent = [column for column in columns if column not in (*table, *DERIVED)]
        if absent:
            raise ConfigError(f"tables={folder}: {path} lacks the column {absent[0]}")
        _refuse_other_values(table, columns, suffix, f"tables={folder}: {path}")
        tables[suffix] = table
    complete = _with_counts(tables, folder, name)
    perturbed = tables.get("_perturbed", pd.DataFrame(columns=list(PERTURBED_COLUMNS)))
    return Tables(complete, tables["_layers"], 0, perturbed=perturbed)


def _refuse_other_values(table: pd.DataFrame, columns: Sequence[str], suffix: str, where: str) -> None:
    """Raise ConfigError for text in a column of numbers, and for a row without what tells it from others."""
    telling = [name for name in ("run", "view", "convention", "epoch", "layer") if name in columns]
    telling = [name for name in telling if suffix != "_perturbed" or name in ("run", "convention")]
    for name in telling:
        if table[name].isna().any():
            raise ConfigError(f"{where} has a row without {name}: the file is damaged")
    texts = (*TEXT_COLUMNS, "view", "convention", "name", "kind")
    for name in (column for column in columns if column in table and column not in texts):
        numbers_of(table, name, where)
    for name in (column for column in ("epoch", "layer", "seed") if column in columns and suffix != "_perturbed"):
        broken = table.loc[table[name] % 1 != 0, name]
        if len(broken):
            raise ConfigError(f"{where}: {name}={broken.iloc[0]}: must be an integer")


def _with_counts(tables: Mapping[str, pd.DataFrame], folder: Path, name: str) -> pd.DataFrame:
    """Return the table of runs, complete; raises ConfigError if a row has fewer or more layers than it counts.

    A row may have none: not every experiment keeps all.
    """
    found = Tables(tables[""], tables["_layers"], 0)
    counted = found.layers.groupby(found.layers_of).size().rename("recorded")
    runs = with_derived(found.runs, found.layers)
    absent = [column for column in found.layers_of if column not in runs]
    if absent:
        raise ConfigError(f"tables={folder}: {name}.csv has no column {absent[0]}, which {name}_layers.csv has")
    counts = runs.join(counted, on=found.layers_of)[["run", "recorded", "points"]].dropna()
    for row in counts[counts["recorded"] != counts["points"]].head(1).to_dict("records"):
        problem = f"run {row['run']} has {row['recorded']:g} of {row['points']:g} layers in {name}_layers.csv"
        raise ConfigError(f"tables={folder}: {problem}")
    _refuse_other_laws(replace(found, runs=runs), f"tables={folder}", name)
    return runs


def _refuse_other_laws(tables: Tables, where: str, name: str) -> None:
    """Raise ConfigError if a row of runs is there twice, or if its r, ρ or D of the last layer is not of its layers."""
    runs, of = tables.runs, tables.layers_of
    if (repeated := runs.duplicated(of)).any():
        row = runs[repeated].iloc[0]
        problem = f"run {row['run']} is there twice, {row['convention']} at epoch {row['epoch']}"
        raise ConfigError(f"{where}: {name}.csv: {problem}; rows of a run differ in convention, view or epoch")
    recorded = runs[[*of, "r", "decay_ratio", "D_last"]].merge(_laws(tables.layers, of), on=of)
    others = recorded[["r", "decay_ratio", "D_last"]].to_numpy(dtype=float)
    laws = recorded[["r_of_layers", "ratio_of_layers", "last_of_layers"]].to_numpy(dtype=float)
    agree = np.isclose(others, laws, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    # Of D that hardly varies r is rounding.
    agree[:, :2] |= recorded[["constant"]].to_numpy(dtype=bool)
    for place, column in np.argwhere(~agree)[:1]:
        row, symbol = recorded.iloc[place], ("r", "decay_ratio", "D_last")[column]
        problem = f"run {row['run']}: {symbol}={others[place, column]:g}, but its layers give {laws[place, column]:g}"
        raise ConfigError(f"{where}: {name}.csv: {problem}; the file is damaged or of other networks")


def _laws(layers: pd.DataFrame, of: Sequence[str]) -> pd.DataFrame:
    """Return r, ρ and D of the last layer by the columns ``of``, NaN without a law, and whether D is constant."""
    found = []
    for key, curve in layers.sort_values("layer", kind="stable").groupby(list(of), sort=False)["D"]:
        fuzziness = curve.to_numpy(dtype=float)
        law = law_of_layers(fuzziness)
        r, ratio = (law.pearson_r, law.decay_ratio) if law else (math.nan, math.nan)
        found.append((*key, r, ratio, fuzziness[-1], law is not None and np.ptp(np.log(fuzziness)) <= TOLERANCE))
    return pd.DataFrame(found, columns=[*of, "r_of_layers", "ratio_of_layers", "last_of_layers", "constant"])
