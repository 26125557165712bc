"""Progress on a console: a bar for one run or population, a table for a sweep, plain lines without a terminal."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn

STOPPING = "stopping after this epoch, with a checkpoint; press Ctrl-C again to stop immediately"


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, without markup, highlighting or wrapping."""
    console.print(line, style=style, highlight=False, soft_wrap=True, markup=False)


class Observer:
    """Receives the progress of training and may request a stop; this base class does neither."""

    def say(self, line: str) -> None:
        """Receive a line for the user."""

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Receive the start of a population: its members, its epochs, and how many of them are already done."""

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Receive the end of an epoch. loss, accuracy: of the training steps, in training mode; means over members."""

    def wants_stop(self) -> bool:
        """Return whether training should stop after the current epoch, with a checkpoint."""
        return False


@contextmanager
def announced(observer: Observer, what: str, after: float = 2.0) -> Iterator[None]:
    """Say what is being done if it takes longer than ``after`` seconds, and then how long it took."""
    started = time.monotonic()
    timer = threading.Timer(after, observer.say, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.monotonic() - started
    if seconds > after:
        observer.say(f"{what}: {seconds:.0f} s")


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
        """Show the bar; the first Ctrl-C stops training at the end of the epoch."""
        with stopping_on_interrupt(self._request_stop), _live(self.progress):
            yield

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        print_line(self.console, line)

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Start the bar."""
        self.epochs = epochs
        self.progress.reset(self.bar, total=epochs, completed=done)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Move the bar, or print a line after every tenth of the epochs."""
        summary = f"training set, training mode: loss {loss:.4f}  accuracy {accuracy:.3f}"
        self.progress.update(self.bar, completed=epoch, description=summary)
        if not self.console.is_terminal and epoch % max(1, self.epochs // 10) == 0:
            self.say(f"epoch {epoch}/{self.epochs}  {summary}")

    def wants_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.stop

    def _request_stop(self) -> None:
        self.stop = True
        self.say(STOPPING)


@contextmanager
def stopping_on_interrupt(request: Callable[[], None]) -> Iterator[None]:
    """Call ``request`` on the first Ctrl-C; the second one interrupts as usual."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        request()

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:
        # Only the main thread can handle signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _progress(console: Console, *columns: str | ProgressColumn) -> Progress:
    return Progress(*columns, BarColumn(bar_width=20), TimeRemainingColumn(), console=console, transient=True)


def _live(progress: Progress) -> AbstractContextManager[object]:
    """Return a context that shows the progress, on a terminal only."""
    return progress if progress.console.is_terminal else nullcontext()


class SweepTable:
    """The live progress of a sweep, one row per shape of network; lines without a terminal."""

    def __init__(self, units: Sequence[tuple[str, int, int]], console: Console) -> None:
        """units: of work; the title, the number of runs and the epochs of each."""
        self.console = console
        self.said: set[str] = set()
        self.progress = _progress(console, "{task.description}", "epoch", MofNCompleteColumn(), "{task.fields[state]}")
        self.titles = [title for title, _, _ in units]
        self.epochs = [0] * len(units)
        self.ended: dict[str, Counter[str]] = {title: Counter() for title in self.titles}
        self.names, self.rows = {}, {}
        for title in self.ended:
            runs = sum(runs for name, runs, _ in units if name == title)
            total = sum(epochs for name, _, epochs in units if name == title)
            self.names[title] = f"{runs} × {title}"
            self.rows[title] = self.progress.add_task(self.names[title], total=total, start=False, state="waiting")

    def shown(self) -> AbstractContextManager[object]:
        """Return a context that shows the rows."""
        return _live(self.progress)

    def say(self, line: str) -> None:
        """Print a line above the rows, once."""
        if line not in self.said:
            self.said.add(line)
            print_line(self.console, line)

    def stop(self, event: Any) -> None:
        """Set an event that stops the units, and say so."""
        event.set()
        self.say(STOPPING)

    def begin(self, index: int, done: int) -> None:
        """Show that a unit starts training, of which some epochs are done."""
        title = self.titles[index]
        self.progress.start_task(self.rows[title])
        self.progress.update(self.rows[title], state="training")
        if not self.console.is_terminal:
            self.say(f"training {self.names[title]}")
        self.advance(index, done)

    def advance(self, index: int, epoch: int) -> None:
        """Show the epoch of a unit."""
        title = self.titles[index]
        self.epochs[index] = epoch
        epochs = sum(epoch for epoch, name in zip(self.epochs, self.titles, strict=True) if name == title)
        self.progress.update(self.rows[title], completed=epochs)

    def end(self, index: int, state: str) -> None:
        """Show that a unit has ended. state: done, failed, interrupted, …"""
        title = self.titles[index]
        ended = self.ended[title]
        ended[state] += 1
        units = self.titles.count(title)
        summary = ", ".join(f"{count} of {units} {name}" if units > 1 else name for name, count in ended.items())
        self.progress.update(self.rows[title], state=summary)
        if ended.total() >= units:
            self.progress.stop_task(self.rows[title])
            if not self.console.is_terminal:
                self.say(f"{summary}: {self.names[title]}")


class TableObserver(Observer):
    """Shows the progress of a unit in the table of its sweep."""

    def __init__(self, index: int, table: SweepTable, wants_stop: Callable[[], bool]) -> None:
        self.index, self.table, self.stop_is_wanted = index, table, wants_stop

    def say(self, line: str) -> None:
        """Print a line, unless it describes one run among many."""
        if not line.startswith("run "):
            self.table.say(line)

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Show that the unit starts training."""
        self.table.begin(self.index, done)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Show the epoch."""
        self.table.advance(self.index, epoch)

    def wants_stop(self) -> bool:
        """Return whether the sweep is being stopped."""
        return self.stop_is_wanted()
