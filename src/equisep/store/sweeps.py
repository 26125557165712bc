"""Sweeps in progress: results/sweeps/<id>/ lists the runs that a sweep will train, as long as its process lives."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equisep.files import write_atomically
from equisep.store.errors import room_for
from equisep.store.locks import held, living_owner


@contextmanager
def planned_runs(results: Path, configs: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """List runs as planned in a store while the context is open. configs: the plain config of each run, by id."""
    _remove_ended(results)
    folder = results / "sweeps" / uuid.uuid4().hex[:12]
    with room_for(folder):
        folder.mkdir(parents=True)
    try:
        with room_for(folder / "runs.json"):
            write_atomically(folder / "runs.json", json.dumps(configs).encode())
        with held(folder / "owner.json", "the sweep"):
            yield
    finally:
        (folder / "runs.json").unlink(missing_ok=True)
        folder.rmdir()


def load_planned_runs(results: Path) -> dict[str, dict[str, Any]]:
    """Return the plain configs of the runs that living sweeps are going to train, by id."""
    planned: dict[str, dict[str, Any]] = {}
    for path in results.glob("sweeps/*/runs.json"):
        if living_owner(path.with_name("owner.json")) is not None:
            try:
                planned |= json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                # The sweep has just ended.
                continue
    return planned


def _remove_ended(results: Path) -> None:
    """Remove the lists of sweeps that were killed."""
    for owner in results.glob("sweeps/*/owner.json"):
        if living_owner(owner) is None:
            shutil.rmtree(owner.parent, ignore_errors=True)
