"""The progress of training on a console: a bar for a population, live rows for a sweep, lines without a terminal."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn


class Observer:
    """Is told how training goes, and says when to stop; this one is silent and never stops."""

    def say(self, line: str) -> None:
        """Take a line for the user."""

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Take note that a population of so many members starts, with ``done`` of its epochs behind it."""

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Take note that all members finished an epoch. loss, accuracy: their means."""

    def wants_stop(self) -> bool:
        """Return whether training is to stop after the present epoch, with a checkpoint."""
        return False


class ConsoleObserver(Observer):
    """One population on a console: a bar with mean loss, accuracy and time left, or ten lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stop = False
        self.epochs = 0
        self.progress = _progress(console, "epoch", MofNCompleteColumn(), "{task.description}")
        self.bar = self.progress.add_task("", total=None)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar, and turn the first Ctrl-C into a stop at the end of the epoch."""
        with stopping_on_interrupt(self._request_stop):
            if self.console.is_terminal:
                with self.progress:
                    yield
            else:
                yield

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Start the bar."""
        self.epochs = epochs
        self.progress.reset(self.bar, total=epochs, completed=done)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Move the bar, or print a line every tenth of the way."""
        summary = f"loss {loss:.4f}  accuracy {accuracy:.3f}"
        self.progress.update(self.bar, completed=epoch, description=summary)
        if not self.console.is_terminal and epoch % max(1, self.epochs // 10) == 0:
            self.say(f"epoch {epoch}/{self.epochs}  {summary}")

    def wants_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.stop

    def _request_stop(self) -> None:
        self.stop = True
        self.say("stopping after this epoch, with a checkpoint; Ctrl-C again stops at once")


@contextmanager
def stopping_on_interrupt(request: Callable[[], None]) -> Iterator[None]:
    """Call ``request`` on the first Ctrl-C; the second one interrupts as ever."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        request()

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:
        # Signals reach the main thread only: elsewhere somebody else deals with them.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _progress(console: Console, *columns: str | ProgressColumn) -> Progress:
    return Progress(*columns, BarColumn(bar_width=20), TimeRemainingColumn(), console=console, transient=True)


class SweepTable:
    """The live progress of a sweep, a row per population; lines where there is no terminal."""

    def __init__(self, populations: Sequence[tuple[str, int]], console: Console) -> None:
        """populations: what the members of each have in common, and how many they are."""
        self.names = [f"{members} × {name}" for name, members in populations]
        self.console = console
        self.progress = _progress(console, "{task.description}", "epoch", MofNCompleteColumn(), "{task.fields[state]}")
        self.rows = [self.progress.add_task(name, total=None, start=False, state="waiting") for name in self.names]

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the rows while the context is open."""
        if self.console.is_terminal:
            with self.progress:
                yield
        else:
            yield

    def say(self, line: str) -> None:
        """Print a line above the rows."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def begin(self, index: int, epochs: int, done: int) -> None:
        """Note that a population starts training."""
        self.progress.reset(self.rows[index], total=epochs, completed=done, state="training")
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {self.names[index]}: epoch {done} of {epochs}")

    def advance(self, index: int, epoch: int) -> None:
        """Note an epoch of a population."""
        self.progress.update(self.rows[index], completed=epoch)

    def end(self, index: int, state: str) -> None:
        """Note that a population has ended."""
        self.progress.stop_task(self.rows[index])
        self.progress.update(self.rows[index], state=state)
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {state}, {self.names[index]}")
