"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash meets the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def retrying(read: Callable[[], T]) -> T:
    """Return what ``read`` does; it is called again where NFS says that the file was replaced meanwhile (ESTALE)."""
    for pause in (0.1, 0.3, 1.0):
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return read()
