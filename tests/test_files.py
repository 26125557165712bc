"""Reads of files that another machine replaces meanwhile."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from equisep.files import retrying


class Replaced:
    """Reads a file after ``times`` errors of a stale handle."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.left = path, times

    def __call__(self) -> bytes:
        self.left -= 1
        if self.left >= 0:
            raise OSError(errno.ESTALE, "Stale file handle", str(self.path))
        return self.path.read_bytes()


def test_only_a_stale_handle_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"{}")
    assert retrying(Replaced(path, 3)) == b"{}"
    with pytest.raises(OSError, match="Stale file handle"):
        retrying(Replaced(path, 4))
    reader = Replaced(tmp_path / "none", 0)
    with pytest.raises(FileNotFoundError):
        retrying(reader)
    assert reader.left == -1
