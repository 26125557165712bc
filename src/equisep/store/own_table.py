"""A table of the user's own as a source of runs: one row per layer, with at least the columns ``layer`` and ``D``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equisep.config import ConfigError


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a table with exact numbers, in which runs are named by text, also where it looks like a number or NA."""
    table = pd.read_csv(path, float_precision="round_trip")
    if "run" not in table:
        return table
    return table.assign(run=pd.read_csv(path, usecols=["run"], dtype=str, keep_default_na=False)["run"])


def _read_jsonl(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        return pd.DataFrame([dict(json.loads(line)) for line in lines if line.strip()])


# Endings of the files; a folder is a table if all of its files of one ending are.
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": pd.read_parquet,
    ".jsonl": _read_jsonl,
}
# The convention of measuring of rows that do not name one.
OWN = "own"


def is_own_table(source: str | Path) -> bool:
    """Whether a source is a table of the user's own by its name: a .csv, .parquet or .jsonl file."""
    return Path(source).suffix in READERS


def read_own_table(source: str | Path) -> pd.DataFrame:
    """Return a table of the user's own with the columns of a table of runs; other columns stay.

    Required: layer (0, 1, …, in the order of the network, or names in that order) and D. Optional: run (by default the
    name of the file), epoch (0), split (train), convention (own), name (of the layer), rank, loss, accuracy. ratio is
    computed where it is missing. Raises ConfigError, in one line, for a file that cannot be read or is no such table.
    """
    path = Path(source)
    where = f"source={path}"
    try:
        table: pd.DataFrame = READERS[path.suffix](path)
    except ImportError:
        raise ConfigError(f"{where}: needs a reader of parquet files: pip install pyarrow") from None
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}: cannot be read ({reason})") from None
    absent = [name for name in ("layer", "D") if name not in table]
    if absent:
        raise ConfigError(f"{where}: has no column {absent[0]}; it needs layer and D, a row per layer")
    if table.empty:
        raise ConfigError(f"{where}: has no rows")
    telling = ["run", "epoch", "split", "convention"]
    defaults: dict[str, Any] = dict(zip(telling, (path.stem, 0, "train", OWN), strict=True))
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    table["run"] = table["run"].where(table["run"] != "")
    for name in (*telling, "layer"):
        if table[name].isna().any():
            raise ConfigError(f"{where}: {name} is empty in row {int(np.flatnonzero(table[name].isna())[0]) + 1}")
    table["run"] = table["run"].map(str)
    if not pd.api.types.is_numeric_dtype(table["layer"]):
        # Names, in the order of the network.
        table = table.assign(name=table["layer"], layer=table.groupby(telling, sort=False).cumcount())
    table = _with_numbers(table, telling, where)
    ordered = table.sort_values([*telling, "layer"], kind="stable")
    ratio = ordered["D"] / ordered.groupby(telling, sort=False)["D"].shift()
    further: dict[str, Any] = {"state": "done", "flaw": "", "measure": OWN, "ratio": ratio}
    further |= {"name": table["layer"].map(str)} | dict.fromkeys(("rank", "loss", "accuracy"), np.nan)
    return table.assign(**{name: values for name, values in further.items() if name not in table})


def _with_numbers(table: pd.DataFrame, telling: list[str], where: str) -> pd.DataFrame:
    """Return the table with numbers in D, epoch and layer; raises ConfigError for text and for a repeated layer."""
    table = table.assign(**{name: numbers_of(table, name, where) for name in ("D", "epoch", "layer")})
    for name in ("loss", "accuracy"):
        if name in table:
            table[name] = numbers_of(table, name, where)
    if (table["D"] < 0).any():
        raise ConfigError(f"{where}: D={table['D'].min():g}: must not be negative")
    repeated = table.duplicated([*telling, "layer"])
    if repeated.any():
        row = table[repeated].iloc[0]
        problem = f"layer {row['layer']} of run {row['run']} at epoch {row['epoch']} is there twice"
        raise ConfigError(f"{where}: {problem}; add a column run, epoch, split or convention that tells them apart")
    spans = table.groupby(telling)["layer"].agg(["min", "max", "size"])
    gaps = spans[(spans["max"] - spans["min"] + 1 != spans["size"]) | (spans["min"] % 1 != 0)]
    if len(gaps):
        one = dict(zip(telling, gaps.index[0], strict=True))
        rows = table[(table["run"] == one["run"]) & (table["epoch"] == one["epoch"])]
        listed = ", ".join(f"{layer:g}" for layer in sorted(set(rows["layer"])))
        raise ConfigError(f"{where}: layers of run {one['run']} are {listed}: must be consecutive, 0, 1, 2, …")
    return table


def numbers_of(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column of a table from a file as numbers; raises ConfigError, beginning with ``where``, for text."""
    numbers: pd.Series = pd.to_numeric(table[column], errors="coerce")
    wrong = table[column][numbers.isna() & table[column].notna()]
    if len(wrong):
        raise ConfigError(f"{where}: {column}={wrong.iloc[0]}: must be a number")
    return numbers
