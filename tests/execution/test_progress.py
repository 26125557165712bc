"""What is said about work that takes long."""

from __future__ import annotations

import threading
from io import StringIO

from rich.console import Console

from equisep.execution.progress import ConsoleObserver, Observer, announced


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
