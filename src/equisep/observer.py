"""What a person sees of training: a bar for a population, a live table for a sweep, lines without a terminal."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equisep.training import Epoch


class Observer:
    """Is told how training goes, and says when to stop; this one is silent and never stops."""

    def say(self, line: str) -> None:
        """Take a line for the user."""

    def begin(self, members: int, epochs: int, done: int) -> None:
        """Take note that a population of so many members starts, with ``done`` of its epochs behind it."""

    def advance(self, members: Sequence[Epoch]) -> None:
        """Take note that all members finished an epoch."""

    def wants_stop(self) -> bool:
        """Return whether training is to stop after the present epoch, with a checkpoint."""
        return False


class ConsoleObserver(Observer):
    """One population on a console: a bar with mean loss, accuracy and time left, or ten lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stop = False
        self.epochs = 0
        self.progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
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

    def advance(self, members: Sequence[Epoch]) -> None:
        """Move the bar, or print a line every tenth of the way."""
        epoch = members[0].epoch
        loss = sum(member.loss for member in members) / len(members)
        accuracy = sum(member.accuracy for member in members) / len(members)
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


@dataclass
class Row:
    """One population of a sweep, as the table shows it."""

    name: str
    members: int
    state: str = "waiting"
    epoch: int = 0
    epochs: int = 0
    first_epoch: int = 0
    started: float = field(default=math.nan)

    def time_left(self) -> float:
        """Return seconds to the end of the training, NaN before the first epoch."""
        trained = self.epoch - self.first_epoch
        if self.state != "training" or trained <= 0:
            return math.nan
        return (time.monotonic() - self.started) / trained * (self.epochs - self.epoch)


class SweepTable:
    """The live table of a sweep: population, members, epoch, time left, state; lines where there is no terminal."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self.rows = list(rows)
        self.console = console
        self.failed = 0
        self.live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while the context is open."""
        if self.console.is_terminal:
            with self.live:
                yield
        else:
            yield

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def begin(self, index: int, epochs: int, done: int) -> None:
        """Note that a population starts training."""
        row = self.rows[index]
        row.state, row.epochs, row.epoch, row.first_epoch = "training", epochs, done, done
        row.started = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {row.members} × {row.name}: epoch {done} of {epochs}")

    def advance(self, index: int, epoch: int) -> None:
        """Note an epoch of a population."""
        self.rows[index].epoch = epoch

    def end(self, index: int, state: str) -> None:
        """Note that a population is through."""
        row = self.rows[index]
        row.state = state
        self.failed += row.members if state == "failed" else 0
        if not self.console.is_terminal:
            self.say(f"population {index + 1}/{len(self.rows)}: {state}, {row.members} × {row.name}")

    def _table(self) -> Table:
        table = Table("population", "members", "epoch", "time left", "state", box=None)
        for row in self.rows:
            left = row.time_left()
            clock = "" if math.isnan(left) else f"{int(left // 60)}:{int(left % 60):02d}"
            epoch = f"{row.epoch}/{row.epochs}" if row.epochs else ""
            table.add_row(row.name, str(row.members), epoch, clock, row.state)
        if self.failed:
            table.caption = f"{self.failed} failed"
        return table
