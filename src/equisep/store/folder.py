"""The folder of a run: held by one process, its files read whole or reported, and replaced with a checksum."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import SafetensorError

from equisep.files import append, retrying, write_atomically
from equisep.store.checksums import BINARY, JSON, YAML
from equisep.store.errors import DamagedRun, room_for
from equisep.store.locks import confirm, held, living_owner

T = TypeVar("T")
# Snapshots and metrics.jsonl have checksums of another form, which those who write and parse them add.
_SEALS = {".json": JSON, ".yaml": YAML, ".pt": BINARY}
# What write_atomically leaves of a file that its process was killed while writing.
_UNFINISHED = ".*.????????????????????????????????.part"
# Those of files that another process may be writing now, without holding the run.
_OF_OTHERS = (".owner.", ".submitted.json.", ".config.yaml.")
# What parsing a damaged file may raise.
_PARSE_ERRORS = (
    *(ValueError, KeyError, TypeError, RuntimeError, OSError, EOFError),
    *(yaml.YAMLError, SafetensorError, pickle.UnpicklingError),
)


class RunFolder:
    """A folder with the files of one run."""

    def __init__(self, results: Path, identity: str) -> None:
        self.id = identity
        self.path = results / "runs" / identity

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process; raises InUse if another living process does (see equisep.store.locks)."""
        with held(self.path / "owner.json", f"run {self.id}"):
            for part in self.path.rglob(_UNFINISHED):
                # A lock file in the making names its process; any other counts as being written for half a minute.
                if not part.name.startswith(_OF_OTHERS) or living_owner(part) is None:
                    part.unlink(missing_ok=True)
            yield

    def confirm_held(self) -> None:
        """Raise InUse if another process has taken the run over from this one; called before every write."""
        confirm(self.path / "owner.json", f"run {self.id}")

    def owner(self) -> dict[str, Any] | None:
        """Return the living process that holds the run, None if there is none."""
        return living_owner(self.path / "owner.json")

    def log(self, text: str) -> None:
        """Add a dated line to run.log, the run's history for the user."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} {os.getpid()} {text}\n"
        self.add("run.log", line.encode(errors="replace"))

    def add(self, name: str, content: bytes) -> None:
        """Add content to the end of a file, or leave it as it is; raises DiskFull."""
        with room_for(self.path / name):
            append(self.path / name, content)

    def write(self, name: str, content: bytes, *, previous: str | None = None) -> None:
        """Replace a file; raises InUse if another process has taken the run over, and DiskFull.

        previous: the name under which the old content is kept, None to keep none.
        """
        self.confirm_held()
        path = self.path / name
        seal = _SEALS.get(path.suffix)
        with room_for(path):
            write_atomically(
                path, seal.close(content) if seal else content, previous=self.path / previous if previous else None
            )

    def read(self, name: str, parse: Callable[[bytes], T], remedy: str) -> T:
        """Return the parsed content of a file; raises DamagedRun with the remedy if that fails."""
        path = self.path / name
        seal = _SEALS.get(path.suffix)
        try:
            content = retrying(path.read_bytes)
            return parse(seal.open(content) if seal else content)
        except FileNotFoundError:
            raise DamagedRun(f"{path} is missing: {remedy}") from None
        except _PARSE_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedRun(f"{path} is damaged ({reason}): {remedy}") from None
