"""Files of a store, changed by tests: with a checksum that fits, so that only the change is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from equisep.store.checksums import JSON, YAML


def edit(path: Path, change: Callable[[str], str]) -> None:
    seal = {".json": JSON, ".yaml": YAML}.get(path.suffix)
    content = path.read_bytes()
    changed = change((seal.open(content) if seal else content).decode()).encode()
    path.write_bytes(seal.close(changed) if seal else changed)
