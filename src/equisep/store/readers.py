"""Runs as they were recorded, read back from wherever they were logged.

A source is a results folder (the store), a folder of wandb logs (RESULTS/wandb, offline or synced), or a wandb
project, ``wandb:ENTITY/PROJECT``. What is read is the same whichever it is: RunRecord.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from equisep.config import ConfigError
from equisep.store.record import RunRecord, checked
from equisep.store.run import FINISHED, DamagedRun, LaterProtocol, Run, all_runs
from equisep.store.wandb_log import read_log, record_from_wandb

PROJECT = "wandb:"


def read_records(source: str | Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield what a source has of each run, by id; of those of the sciences ``wanted`` alone, where given.

    Raises ConfigError for a source that is none.
    """
    if str(source).startswith(PROJECT):
        return read_project(str(source).removeprefix(PROJECT), wanted)
    folder = Path(source)
    if (folder / "runs").is_dir():
        return read_store(folder, wanted)
    if any(_segments(folder)):
        return read_logs(folder, wanted)
    raise ConfigError(
        f"source={source}: neither a results folder (runs/) nor a folder of wandb logs (offline-run-…/) nor "
        f"{PROJECT}ENTITY/PROJECT"
    )


def read_store(results: Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of the store below a results folder."""
    for run in all_runs(results):
        record = read_run(run)
        if wanted is None or not record.config or record.config["science"] in wanted:
            yield record


def read_run(run: Run) -> RunRecord:
    """Return what the store has of a run; a file that cannot be read is its flaw."""
    config: Mapping[str, Any] = {}
    try:
        config = run.config()
        measures, robustness = run.load_measures(), run.load_robustness()
        return checked(RunRecord(run.id, config, run.state(), tuple(run.epochs()), measures, robustness))
    except LaterProtocol as error:
        raise ConfigError(str(error)) from None
    except DamagedRun as error:
        return checked(RunRecord(run.id, config, {"state": "damaged"}, (), {}, {}, str(error)))


def read_logs(folder: Path, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a folder of wandb logs; the segments of one run, of which later ones prevail, are one."""
    segments: dict[str, list[Path]] = defaultdict(list)
    for path in _segments(folder):
        segments[path.stem.removeprefix("run-")].append(path)
    for run, paths in sorted(segments.items()):
        # Every segment tells the whole run again, up to its own end: the last that is whole tells it, or the last.
        told = [_read_segment(run, path) for path in paths]
        whole = [record for record in told if not record.flaw and record.state["state"] in FINISHED]
        record = (whole or told)[-1]
        if wanted is None or not record.config or record.config["science"] in wanted:
            yield record


def _segments(folder: Path) -> Iterator[Path]:
    """Yield the .wandb files below a folder in the order in which they were begun, which their folders' names tell."""
    yield from sorted(folder.glob("*run-*-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


def read_project(project: str, wanted: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a wandb project, ENTITY/PROJECT, through wandb's public API.

    The server is the one wandb is logged in to (WANDB_BASE_URL, WANDB_API_KEY). Raises ConfigError in one line where
    there is no account, no such project or no answer.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise ConfigError(f"source={PROJECT}{project}: give {PROJECT}ENTITY/PROJECT")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # Raised by the reading of a history, and no wandb.Error.
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    # Silent: no question to the terminal. wandb's own patience with a server that does not answer is hours.
    seconds = 20
    patience = {"x_graphql_retry_max": 1, "x_graphql_timeout_seconds": seconds}
    waits = {"x_graphql_retry_wait_min_seconds": 1, "x_graphql_retry_wait_max_seconds": 1}
    wandb.setup(settings=wandb.Settings(silent=True, **patience, **waits))  # type: ignore[arg-type]
    try:
        api = wandb.Api(timeout=3 * seconds)
        runs = sorted(api.runs(project, per_page=50, lazy=False), key=lambda run: str(run.id))
        for run in runs:
            if wanted is not None and run.config.get("science") not in wanted:
                continue
            # Rows that the server has stored already and keeps in memory as well come twice.
            rows = {row["_step"]: row for row in run.scan_history(use_cache=False)}
            in_order = [rows[step] for step in sorted(rows)]
            yield record_from_wandb(str(run.id), run.config, in_order, _plain(run.summary))
    except (wandb.Error, WandbApiFailedError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"source={PROJECT}{project}: {reason} (an account is needed: `wandb login`, or WANDB_API_KEY)"
        ) from None


def _read_segment(run: str, path: Path) -> RunRecord:
    """Return what a .wandb file tells of a run, up to where it ends or is damaged."""
    log = read_log(path)
    return record_from_wandb(run, log.config, log.rows, log.summary, log.flaw)


def _plain(value: Any) -> Any:
    """Return a summary of wandb's, whose parts are mappings of its own, as plain containers."""
    return {key: _plain(item) for key, item in value.items()} if hasattr(value, "items") else value
