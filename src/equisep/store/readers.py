"""Runs read back from where they were recorded, as RunRecord.

A source is a results folder (the store), a folder of wandb logs (RESULTS/wandb, offline or synced), or a wandb
project, ``wandb:ENTITY/PROJECT``. All three give equal records.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from equisep.config import ConfigError
from equisep.store.errors import DamagedRun, LaterProtocol
from equisep.store.record import RunRecord, checked
from equisep.store.run import FINISHED, Run, all_runs
from equisep.store.wandb_log import read_log, record_from_wandb

PROJECT = "wandb:"


def read_records(source: str | Path, hashes: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the record of each run of a source, by run id. hashes: config hashes to read only, None for all runs.

    Raises ConfigError if the source is not valid.
    """
    if str(source).startswith(PROJECT):
        return read_project(str(source).removeprefix(PROJECT), hashes)
    folder = Path(source)
    if (folder / "runs").is_dir():
        return read_store(folder, hashes)
    if any(_segments(folder)):
        return read_logs(folder, hashes)
    raise ConfigError(
        f"source={source}: neither a results folder (runs/) nor a folder of wandb logs (offline-run-…/) nor "
        f"{PROJECT}ENTITY/PROJECT"
    )


def read_store(results: Path, hashes: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of the store in a results folder. hashes: see :func:`read_records`."""
    return _selected(map(read_run, all_runs(results)), hashes)


def _selected(records: Iterable[RunRecord], hashes: Collection[str] | None) -> Iterator[RunRecord]:
    """Yield the records with one of these config hashes, and those whose config cannot be read."""
    return (record for record in records if hashes is None or not record.config or record.config["science"] in hashes)


def read_run(run: Run) -> RunRecord:
    """Return the record of a run of the store; a file that cannot be read is its flaw."""
    config: Mapping[str, Any] = {}
    try:
        config = run.config()
        measures, robustness = run.load_measures(), run.load_robustness()
        return checked(RunRecord(run.id, config, run.state(), tuple(run.epochs()), measures, robustness))
    except LaterProtocol as error:
        raise ConfigError(str(error)) from None
    except DamagedRun as error:
        return checked(RunRecord(run.id, config, {"state": "damaged"}, (), {}, {}, str(error)))


def read_logs(folder: Path, hashes: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a folder of wandb logs, one record per run. hashes: see :func:`read_records`."""
    segments: dict[str, list[Path]] = defaultdict(list)
    for path in _segments(folder):
        segments[path.stem.removeprefix("run-")].append(path)
    return _selected((_merge_segments(run, paths) for run, paths in sorted(segments.items())), hashes)


def _merge_segments(run: str, paths: Sequence[Path]) -> RunRecord:
    """Return the record of a run with several logs, each of which repeats the whole run: the last complete log's."""
    logs = map(read_log, paths)
    records = [record_from_wandb(run, log.config, log.rows, log.summary, log.flaw) for log in logs]
    complete = [record for record in records if not record.flaw and record.state["state"] in FINISHED]
    return (complete or records)[-1]


def _segments(folder: Path) -> Iterator[Path]:
    """Yield the .wandb files of a folder by start time, which is part of their folders' names."""
    yield from sorted(folder.glob("*run-*-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


def read_project(project: str, hashes: Collection[str] | None = None) -> Iterator[RunRecord]:
    """Yield the runs of a wandb project, ENTITY/PROJECT, through wandb's public API. hashes: see :func:`read_records`.

    The server is the one wandb is logged in to (WANDB_BASE_URL, WANDB_API_KEY). Raises ConfigError without an account,
    a project of this name or an answer.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise ConfigError(f"source={PROJECT}{project}: must be {PROJECT}ENTITY/PROJECT")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # Raised by scan_history; it is not a wandb.Error.
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    # Silent: no question on the terminal. By default, wandb retries for hours when a server does not answer.
    timeouts = {"x_graphql_retry_max": 1, "x_graphql_timeout_seconds": 20}
    pauses = {"x_graphql_retry_wait_min_seconds": 1, "x_graphql_retry_wait_max_seconds": 1}
    wandb.setup(settings=wandb.Settings(silent=True, **timeouts, **pauses))  # type: ignore[arg-type]
    try:
        runs = wandb.Api(timeout=60).runs(project, per_page=50, lazy=False)
        for run in sorted(runs, key=lambda run: str(run.id)):
            if hashes is not None and run.config.get("science") not in hashes:
                continue
            # Rows that the server has stored and still keeps in memory are returned twice.
            rows = {row["_step"]: row for row in run.scan_history(use_cache=False)}
            ordered = [rows[step] for step in sorted(rows)]
            yield record_from_wandb(str(run.id), run.config, ordered, _plain(run.summary))
    except (wandb.Error, WandbApiFailedError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "reading needs an account: run `wandb login` or set WANDB_API_KEY"
        raise ConfigError(f"source={PROJECT}{project}: {reason}; {remedy}") from None


def _plain(value: Any) -> Any:
    """Return a wandb summary, which consists of wandb's own mappings, as plain containers."""
    return {key: _plain(item) for key, item in value.items()} if hasattr(value, "items") else value
