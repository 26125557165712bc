"""A file of measured runs to which one run is written: every other row stays as it is, character by character."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equisep.files import write_atomically

# Columns that say what a row is.
NEEDED = ("run", "epoch", "layer", "D")


class RunTable:
    """A .csv or .jsonl file with a row per run, epoch and layer; it need not exist.

    Raises ValueError, in one line, for a path that cannot be written and for a file that is no such table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"to={path}: must end with .csv or .jsonl")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise ValueError(f"to={path}: cannot be written ({error.strerror}); choose another folder") from None
        self.epochs("")

    def epochs(self, run: str) -> set[float]:
        """Return the epochs of a run in the file."""
        return {epoch for _, name, epoch in self._rows()[1] if name == run}

    def write(self, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a run's rows; its rows of earlier epochs than the first of these stay, as those of other runs do."""
        first = min(row["epoch"] for row in rows)
        columns, stored = self._rows()
        kept = [text for text, name, epoch in stored if name != run or epoch < first]
        plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
        if self.path.suffix == ".jsonl":
            content = "".join(f"{line}\n" for line in (*kept, *(json.dumps(row, ensure_ascii=False) for row in plain)))
        else:
            names = list(dict.fromkeys([*columns, *(name for row in plain for name in row)]))
            file = io.StringIO()
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([*line, *[""] * (len(names) - len(line))] for line in kept)
            writer.writerows([row.get(name) for name in names] for row in plain)
            content = file.getvalue()
        write_atomically(self.path, content.encode())

    def _rows(self) -> tuple[list[str], list[tuple[Any, str, float]]]:
        """Return the columns, and of each row what it is made of, its run and its epoch."""
        if not self.path.exists():
            return [], []
        try:
            text = self.path.read_text(encoding="utf-8")
            if self.path.suffix == ".jsonl":
                lines = [line for line in text.splitlines() if line.strip()]
                parsed = [dict(json.loads(line)) for line in lines]
                columns = list(parsed[0]) if parsed else []
                whole: list[Any] = lines
            else:
                columns, *whole = csv.reader(io.StringIO(text)) if text.strip() else [[]]
                parsed = [dict(zip(columns, line, strict=False)) for line in whole]
        except (OSError, ValueError, TypeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise ValueError(f"to={self.path}: cannot be read ({reason}); choose another file") from None
        for name in NEEDED:
            if any(name not in row for row in parsed) or name not in columns:
                problem = f"is no table of runs, for want of a column {name}"
                raise ValueError(f"to={self.path}: {problem}; choose another file")
        try:
            told = [(str(row["run"]), float(row["epoch"])) for row in parsed]
        except (TypeError, ValueError):
            raise ValueError(
                f"to={self.path}: is no table of runs, an epoch is no number; choose another file"
            ) from None
        return columns, [(one, *names) for one, names in zip(whole, told, strict=True)]


def _plain(value: Any) -> Any:
    """Return a value as JSON and CSV have it, exactly; None for what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
