"""Files that are there whole or not at all."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash meets the old content or the new, never a part.

    Several processes may write the same file at once: one of their contents is kept, whole. Raises OSError.
    """
    # A name that no other writer has: processes of two containers may share a number.
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
    """Return what ``read`` returns; it is called again where NFS reports that the file was replaced (ESTALE)."""
    for pause in (0.1, 0.3, 1.0):
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return read()
