"""Compilation of the native kernels."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from equisep.training import Kernels, kernels, why_not_native

WHY_NOT = why_not_native(Kernels.FEED_FORWARD) or why_not_native(Kernels.CONVOLUTIONS)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native engine: {WHY_NOT}")


@pytest.fixture
def uncached() -> Iterator[None]:
    """Let the kernels be looked for anew, and restore what was found before."""
    functions = (kernels.load_kernels, kernels.kernels_id, kernels.compile_command)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


COMPILERS = {
    "missing": (None, "is not a program"),
    "fails": ("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'cannot find -lm' >&2\nexit 1\n", "cannot find -lm"),
    "refuses": ("#!/bin/sh\nexit 1\n", "exit code 1"),
    "no program": ("\x7fELF", "cannot be run"),
}


@pytest.mark.parametrize("kind", list(COMPILERS))
def test_without_a_working_compiler_the_reason_is_one_line(
    uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    script, reason = COMPILERS[kind]
    compiler = tmp_path / "compiler"
    if script:
        compiler.write_text(script)
        compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    with pytest.raises(kernels.NoNativeKernels, match=reason) as error:
        kernels.load_kernels(Kernels.FEED_FORWARD)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.so"))
    assert not list(tmp_path.rglob("*.part"))


def test_kernels_are_compiled_once_and_again_if_cut_or_not_writable(
    uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (library,) = {Path(kernels.load_kernels(Kernels.FEED_FORWARD)._name)}
    compiled = []

    def compile_nothing(command: object) -> bytes:
        """Stand in for the compiler, which takes four seconds."""
        compiled.append(command)
        return library.read_bytes()

    monkeypatch.setattr(kernels, "_compile", compile_nothing)

    def found() -> Path:
        kernels.load_kernels.cache_clear()
        return Path(kernels.load_kernels(Kernels.FEED_FORWARD)._name)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = found()
    assert found() == first == tmp_path / "cache/equisep" / library.name
    assert len(compiled) == 1
    # The file that is loaded here must not change.
    copy_of_it = tmp_path / "other/equisep" / first.name
    copy_of_it.parent.mkdir(parents=True)
    copy_of_it.write_bytes(first.read_bytes()[:4096])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    found()
    assert len(compiled) == 2
    assert copy_of_it.read_bytes() == first.read_bytes()
    # A file stands where the folder should be; a folder of others is not used.
    monkeypatch.setenv("XDG_CACHE_HOME", str(first))
    monkeypatch.setattr(kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    assert found().parent == tmp_path / f"equisep-{os.getuid()}"
    (tmp_path / f"equisep-{os.getuid()}").chmod(0o777)
    found().unlink()
    kernels.load_kernels.cache_clear()
    with pytest.raises(kernels.NoNativeKernels, match="only this user can write to"):
        kernels.load_kernels(Kernels.FEED_FORWARD)


@pytest.mark.parametrize("which", Kernels)
def test_the_kernels_compile_without_warnings(which: Kernels) -> None:
    command = [*kernels.compile_command(which), "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
