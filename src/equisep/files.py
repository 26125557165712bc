"""Writes that succeed as a whole or not at all, and reads that survive a replaced file on NFS."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_atomically(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write a file so that readers see the old or the new content, never a part, even after a crash.

    Of several processes that write the same file at once, one wins. previous: where the old content is moved to; a
    crash may then leave it there, and no file under the path itself. Raises OSError.
    """
    # Not the process id, which two containers may share.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with suppress(FileNotFoundError):
                path.replace(previous)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def append(path: Path, content: bytes) -> None:
    """Add content to the end of a file; a write that fails leaves the file as it was. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            # A nearly full disk takes a part of it, and refuses the next.
            while content:
                content = content[file.write(content) :]
        except OSError:
            with suppress(OSError):
                file.truncate(size)
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
