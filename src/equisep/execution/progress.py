"""Progress on a console: a bar for one population, a table for a sweep, plain lines without a terminal."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn


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
        self.say("stopping after this epoch, with a checkpoint; press Ctrl-C again to stop immediately")


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
    """The live progress of a sweep, one row per population; lines without a terminal."""

    def __init__(self, populations: Sequence[tuple[str, int]], console: Console) -> None:
        """populations: title and number of members of each."""
        self.names = [f"{members} × {name}" for name, members in populations]
        self.console = console
        self.progress = _progress(console, "{task.description}", "epoch", MofNCompleteColumn(), "{task.fields[state]}")
        self.rows = [self.progress.add_task(name, total=None, start=False, state="waiting") for name in self.names]

    def shown(self) -> AbstractContextManager[object]:
        """Return a context that shows the rows."""
        return _live(self.progress)

    def say(self, line: str) -> None:
        """Print a line above the rows."""
        print_line(self.console, line)

    def begin(self, index: int, epochs: int, done: int) -> None:
        """Show that a population starts training."""
        self.progress.reset(self.rows[index], total=epochs, completed=done, state="training")
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {self.names[index]}: epoch {done} of {epochs}")

    def advance(self, index: int, epoch: int) -> None:
        """Show the epoch of a population."""
        self.progress.update(self.rows[index], completed=epoch)

    def end(self, index: int, state: str) -> None:
        """Show that a population has ended."""
        self.progress.stop_task(self.rows[index])
        self.progress.update(self.rows[index], state=state)
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {state}, {self.names[index]}")
