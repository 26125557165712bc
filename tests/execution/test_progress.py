"""What is said about work that takes long."""

from __future__ import annotations

import threading
from io import StringIO

from rich.console import Console

from equisep.execution.progress import ConsoleObserver, Observer, SweepTable, TableObserver, announced


class Listener(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.heard = threading.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.heard.set()


def test_work_that_takes_longer_is_announced_and_its_end_said() -> None:
    observer = Listener()
    with announced(observer, "compiling kernels", after=0.0):
        assert observer.heard.wait(60)
        assert observer.lines == ["compiling kernels …"]
    assert observer.lines[1:] == ["compiling kernels: 0 s"]


def test_work_that_ends_before_is_not_mentioned() -> None:
    observer = Listener()
    with announced(observer, "measuring", after=3600.0):
        pass
    assert observer.lines == []


def test_progress_names_the_split_and_the_mode_of_its_accuracy() -> None:
    text = StringIO()
    observer = ConsoleObserver(Console(file=text, width=200))
    with observer.shown():
        observer.begin(1, 10, 0)
        observer.advance(1, 0.5, 0.75)
    assert text.getvalue() == "epoch 1/10  training set, training mode: loss 0.5000  accuracy 0.750\n"


def test_a_sweep_has_a_row_per_shape_and_names_its_start_and_end() -> None:
    text = StringIO()
    table = SweepTable([("deep", 1, 6), ("shallow", 2, 6), ("deep", 1, 6)], Console(file=text, width=200))
    for index in range(3):
        observer = TableObserver(index, table, lambda: False)
        observer.say("images: resized")
        observer.begin(1, 6, 2)
        observer.advance(6, 0.5, 0.75)
    (deep, shallow) = table.progress.tasks
    assert (deep.description, deep.completed, deep.total) == ("2 × deep", 12, 12)
    assert (shallow.description, shallow.completed, shallow.total) == ("2 × shallow", 6, 6)
    for index, state in enumerate(("done", "done", "failed")):
        table.end(index, state)
    assert text.getvalue().splitlines() == [
        *("images: resized", "training 2 × deep", "training 2 × shallow"),
        *("done: 2 × shallow", "1 of 2 done, 1 of 2 failed: 2 × deep"),
    ]
