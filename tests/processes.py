"""Commands in real processes: forked from one that has imported the package, so that starting them costs nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from equisep.commands.main import main
from tests.conftest import ROOT, Ended

CONTEXT: Any = multiprocessing.get_context("forkserver")
# torch._dynamo is imported by the first optimizer of a process.
PRELOADED = ("commands.run", "commands.show", "plots", "execution.train", "execution.workers")
CONTEXT.set_forkserver_preload([*(f"equisep.{name}" for name in PRELOADED), "torch._dynamo", "wandb"])


@dataclass(frozen=True)
class Started:
    """A process that runs a command; it leads a process group of its own. out, err: files with what it prints."""

    process: Any
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        """The number of the process, and of its group."""
        return int(self.process.pid)

    def alive(self) -> bool:
        """Return whether the process has not ended."""
        return bool(self.process.is_alive())

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for the end; the exit code is minus the number of the signal that ended it, as in subprocess."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds:g} s: {self.err.read_text()}"
        return Ended(self.process.exitcode, self.out.read_text(), self.err.read_text())

    def line(self) -> str:
        """Wait for the first line on standard output and return it."""
        until = time.monotonic() + 120
        while "\n" not in (text := self.out.read_text()):
            assert time.monotonic() < until
            assert self.alive(), self.err.read_text()
            time.sleep(0.01)
        return text.splitlines()[0]


def start(
    *words: str,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    target: Callable[[list[str]], int | None] = main,
) -> Started:
    """Start ``equisep WORDS…``, or another function of the words, in a process of its own."""
    output = Path(tempfile.mkdtemp(dir=_outputs().name))
    out, err = output / "out", output / "err"
    out.touch()
    err.touch()
    arguments = (target, list(words), folder, dict(os.environ if environment is None else environment), out, err)
    process = CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return Started(process, out, err)


@cache
def _outputs() -> tempfile.TemporaryDirectory[str]:
    """Return the folder for what processes print; it is removed when the tests end."""
    return tempfile.TemporaryDirectory(prefix="equisep-processes-")


def call(*words: str, **options: Any) -> Ended:
    """Start a command and wait for its end."""
    return start(*words, **options).wait()


def _run(
    target: Callable[[list[str]], int | None],
    words: list[str],
    folder: Path,
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    os.setsid()
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = target(words)
    finally:
        # Processes of multiprocessing skip what is registered for the exit. Of that, wandb's is needed, to end its
        # service; the others would remove temporary folders of the process that they were forked from.
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()
        sys.stdout.flush()
    sys.exit(code)
