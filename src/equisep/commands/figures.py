"""A figure by its name, or all of a store, a profile or a folder of tables, drawn by one process per core."""

import contextlib
import gc
import io
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from equisep.analysis.experiments import load_profile
from equisep.analysis.figures import law
from equisep.analysis.figures.catalogue import OVERVIEWS, all_reproductions, reproduction_of
from equisep.config import ConfigError, nearest


def draw(name: str, words: Sequence[str]) -> int:
    """Draw and judge one figure; return the exit code. Raises ConfigError for an unknown name."""
    if name == law.NAME:
        return law.main(words)
    figure = reproduction_of(name) or OVERVIEWS.get(name)
    if figure is None:
        names = [*all_reproductions(), *OVERVIEWS, law.NAME]
        raise ConfigError(f"figure {name}: no such figure{nearest(name, names)}; choose one of {', '.join(names)}")
    return figure.main(words)


def draw_all(words: Sequence[str]) -> int:
    """Draw every figure and print what each says; return the highest exit code.

    words: as for one figure. With tables=FOLDER the figures NAME are drawn that FOLDER/NAME has a table of, and from
    all tables those over all runs that have a folder; with profile=NAME those of the profile; with neither all. Raises
    ConfigError.
    """
    calls = {name: list(words) for name in all_reproductions()}
    invalid = [word for word in words if "=" not in word]
    if invalid:
        expected = "profile=NAME, source=SOURCE, tables=FOLDER or KEY=VALUE overrides"
        raise ConfigError(f"{invalid[0]}: unknown argument; use {expected}")
    options = dict(word.split("=", 1) for word in words)
    if "tables" in options and set(options) - {"tables", "results"}:
        raise ConfigError(f"tables={options['tables']}: can be combined with results=FOLDER only")
    if "tables" in options:
        folder = Path(options["tables"])
        tables = {name: folder / name / f"{name}.csv" for name in calls}
        sizes = {name: path.stat().st_size for name, path in tables.items() if path.is_file()}
        if not sizes:
            raise ConfigError(f"tables={folder}: no folder NAME with a table NAME.csv of an experiment")
        others = [word for word in words if not word.startswith("tables=")]
        # The figures that take longest first.
        ordered = sorted(sizes, key=lambda name: sizes[name], reverse=True)
        calls = {name: list(words) for name in OVERVIEWS if (folder / name).is_dir()}
        calls |= {name: [f"tables={folder / name}", *others] for name in ordered}
    elif "profile" in options:
        calls = {name: calls[name] for name in load_profile(options["profile"])}
    else:
        calls |= {name: list(words) for name in OVERVIEWS}
    workers = min(len(calls), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    code = 0
    # Processes that have loaded torch cannot be forked safely.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_spare_imports) as pool:
        for one, out, error in pool.map(_draw_quietly, calls, calls.values()):
            print(out, end="", flush=True)
            print(error, end="", file=sys.stderr, flush=True)
            code = max(code, one)
    return code


def _spare_imports() -> None:
    """Leave what this process has imported out of later garbage collections."""
    gc.collect()
    gc.freeze()


def _draw_quietly(name: str, words: Sequence[str]) -> tuple[int, str, str]:
    """Draw one figure; return its exit code and what it prints to standard output and error."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = draw(name, words)
    return code, out.getvalue(), error.getvalue()
