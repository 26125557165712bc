"""Files: written atomically by several processes at once, read while another machine replaces them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from equisep.files import retrying, write_atomically


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


WRITER = """
import os, sys
from pathlib import Path
from equisep.files import write_atomically
# As in two containers, every process has the same number.
os.getpid = lambda: 1
for _ in range(200):
    write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
"""


def test_processes_that_write_one_file_at_once_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "ab"]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            contents.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert contents <= {b"a" * 100_000, b"b" * 100_000}
    assert contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
