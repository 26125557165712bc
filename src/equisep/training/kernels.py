"""Compilation of kernels in C++: once per machine, by its compiler, kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path

from equisep.files import write_atomically

HEADER = Path(__file__).with_name("vectors.h")
# Sums may be reassociated, so that they are vectorised; NaN and infinity keep their meaning.
FLAGS = (
    *("-std=c++17", "-march=native", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
# g++ takes ten seconds for -O3, which is not faster; clang's -O2 leaves the sums of a product in memory.
OPTIMISATION = {"g++": ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"), "clang": ("-O3",)}
COMPILE_TIMEOUT_S = 120.0


class Kernels(Enum):
    """A file of kernels; the value is its name without the suffix."""

    FEED_FORWARD = "native"
    CONVOLUTIONS = "convolutions"

    @property
    def source(self) -> Path:
        """The file in C++."""
        return Path(__file__).with_name(f"{self.value}.cpp")


class NoNativeKernels(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message is the reason."""


@cache
def why_not_native(kernels: Kernels) -> str:
    """Return why the kernels cannot be compiled or loaded on this machine, '' if they can."""
    try:
        load_kernels(kernels)
    except NoNativeKernels as error:
        return str(error)
    return ""


@cache
def load_kernels(kernels: Kernels) -> ctypes.CDLL:
    """Return compiled kernels, compiling them if this machine has not done so before; raises NoNativeKernels."""
    command = compile_command(kernels)
    reason = ""
    for folder in _cache_folders():
        try:
            library = _find_library(folder, kernels) or _store_library(folder, kernels, _compile(command))
            return ctypes.CDLL(str(library))
        except OSError as error:
            reason = str(error)
    raise NoNativeKernels(f"the compiled kernels cannot be kept or loaded ({reason})")


@cache
def kernels_id(kernels: Kernels) -> str:
    """Return 16 hex digits of what the kernels' results depend on: source, command, compiler and processor."""
    sources = [kernels.source.read_text(), HEADER.read_text()]
    parts = [*sources, *compile_command(kernels), _output([*_compiler(), "--version"]), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@cache
def compile_command(kernels: Kernels) -> tuple[str, ...]:
    """Return the command that compiles the kernels, without the name of the library; raises NoNativeKernels."""
    kind = "clang" if "clang" in _output([*_compiler(), "--version"]) else "g++"
    return (*_compiler(), *OPTIMISATION[kind], *FLAGS, str(kernels.source))


def _compiler() -> list[str]:
    """Return the compiler and its own options; raises NoNativeKernels."""
    name, *options = shlex.split(os.environ.get("CXX") or "c++")
    program = shutil.which(name)
    if program is None:
        raise NoNativeKernels(f"no C++ compiler ({name} is not a program)")
    return [program, *options]


def _compile(command: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "kernels.so")
        _output([*command, "-o", str(library)])
        return library.read_bytes()


def _output(command: Sequence[str]) -> str:
    """Return what a command of the compiler prints; raises NoNativeKernels."""
    try:
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoNativeKernels(f"the C++ compiler {command[0]} cannot be run ({error})") from None
    if ended.returncode:
        reason = next(iter(ended.stderr.strip().splitlines()), f"exit code {ended.returncode}")
        raise NoNativeKernels(f"{command[0]} cannot compile the kernels ({reason})")
    return ended.stdout


def _cache_folders() -> Iterator[Path]:
    """Yield the user's cache folder, and one that exists where there is no home or it is read-only."""
    with suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equisep"
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir()) / f"equisep-{os.getuid()}"


def _find_library(folder: Path, kernels: Kernels) -> Path | None:
    """Return the library of this compiler and processor in a folder, None if there is none that is whole."""
    for path in folder.glob(f"{kernels.value}-{kernels_id(kernels)}-*.so"):
        if path.name == _name_of(kernels, path.read_bytes()):
            return path
    return None


def _store_library(folder: Path, kernels: Kernels, content: bytes) -> Path:
    """Write a library, as other processes may at the same time; raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
        raise OSError(f"{folder} is not a folder that only this user can write to")
    library = folder / _name_of(kernels, content)
    write_atomically(library, content)
    return library


def _name_of(kernels: Kernels, content: bytes) -> str:
    """Return the name of a library, by which one that was cut or changed is recognised."""
    return f"{kernels.value}-{kernels_id(kernels)}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def _processor() -> str:
    """Return what -march=native depends on: machines with one home folder may differ in it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))
