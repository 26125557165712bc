"""Atomic writes, and reads that survive a replaced file on NFS."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part, even after a crash.

    Of several processes that write the same file at once, one wins. Raises OSError.
    """
    # Not the process id, which two containers may share.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def retrying(read: Callable[[], T]) -> T:
    """Return the result of ``read``, called again where NFS reports that the file was replaced (ESTALE)."""
    for pause in (0.1, 0.3, 1.0):
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return read()
