"""Worker processes: populations side by side on this machine's cores or GPUs."""

import multiprocessing.connection
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from equisep.config import Config
from equisep.execution.job import Job
from equisep.execution.progress import Observer, SweepTable, stopping_on_interrupt
from equisep.execution.train import Stopped, execute
from equisep.store import Outcome

Result = Outcome | Exception
# Called when a population has ended: its index, and a result for each member or one exception for all.
ReportEnd = Callable[[int, Sequence[Result] | Exception], None]


def run_in_workers(populations: Sequence[Sequence[Job]], end: ReportEnd, workers: int, console: Console) -> None:
    """Run the populations in so many worker processes and report the end of each as it comes.

    Raises KeyboardInterrupt after Ctrl-C, when every population has written its checkpoint.
    """
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    stop = context.Event()
    rows = [(population[0].shared_title, len(population)) for population in populations]
    table = SweepTable(rows, console)
    left = dict.fromkeys(range(len(populations)), 2)
    with table.shown(), stopping_on_interrupt(stop.set):
        # A worker that dies, of lack of memory say, breaks its pool: the others' work is taken up in a new one.
        while left and not stop.is_set():
            count = min(workers, len(left))
            gpus = context.SimpleQueue()
            for worker in range(count):
                gpus.put(gpu_of_worker(worker, torch.cuda.device_count()))
            pool = ProcessPoolExecutor(count, context, _initialise_worker, (messages, stop, gpus))
            with pool:
                through = _run_pool(pool, {index: populations[index] for index in left}, messages, table, end)
            broken = {index: tries - 1 for index, tries in left.items() if index not in through}
            left = {index: tries for index, tries in broken.items() if tries}
            for index in [] if stop.is_set() else broken.keys() - left.keys():
                end(index, RuntimeError("its worker process died twice; out of memory? try hydra.launcher.processes=1"))
    if stop.is_set():
        raise KeyboardInterrupt


def _run_pool(
    pool: ProcessPoolExecutor,
    populations: Mapping[int, Sequence[Job]],
    messages: Any,
    table: SweepTable,
    end: ReportEnd,
) -> list[int]:
    """Run populations in a pool and return those that came to an end, whichever; the others met a broken pool."""
    # Ignored while the processes start, which inherit that: Ctrl-C is this process's to deal with.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    futures: dict[Future[list[Outcome]], int] = {
        pool.submit(_run_in_worker, index, [job.config for job in population]): index
        for index, population in populations.items()
    }
    signal.signal(signal.SIGINT, before)
    waiting = set(futures)
    through = []
    while waiting:
        finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        _take_messages(messages, table)
        for future in finished:
            index, error = futures[future], future.exception()
            if isinstance(error, BrokenProcessPool):
                table.end(index, "its worker died")
                continue
            through.append(index)
            if error is None:
                table.end(index, "done")
                for outcome in future.result():
                    table.say(str(outcome))
                end(index, future.result())
            elif isinstance(error, Stopped):
                table.end(index, "interrupted")
            else:
                table.end(index, "failed")
                end(index, error if isinstance(error, Exception) else RuntimeError(str(error)))
    return through


def _take_messages(messages: Any, table: SweepTable) -> None:
    while True:
        try:
            kind, index, *values = messages.get_nowait()
        except queue.Empty:
            return
        if kind == "say":
            table.say(*values)
        elif kind == "begin":
            table.begin(index, *values)
        else:
            table.advance(index, *values)


class _WorkerObserver(Observer):
    """Passes on to the sweep's process what one of its populations does."""

    def __init__(self, index: int, messages: Any, stop: Any) -> None:
        self.index, self.messages, self.stop = index, messages, stop
        self.told = 0.0

    def say(self, line: str) -> None:
        if not line.startswith("run "):
            self.messages.put(("say", self.index, line))

    def begin(self, members: int, epochs: int, done: int) -> None:
        self.messages.put(("begin", self.index, epochs, done))

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        if time.monotonic() - self.told > 0.3:
            self.told = time.monotonic()
            self.messages.put(("advance", self.index, epoch))

    def wants_stop(self) -> bool:
        return bool(self.stop.is_set())


@dataclass
class _Worker:
    """What a worker process is given when it starts."""

    messages: Any = None
    stop: Any = None


_worker = _Worker()


def gpu_of_worker(worker: int, gpus: int) -> int | None:
    """Return the number of the GPU that a worker process has, so that they share those of the machine evenly."""
    return worker % gpus if gpus else None


def _initialise_worker(messages: Any, stop: Any, gpus: Any) -> None:
    gpu = gpus.get()
    if gpu is not None:
        torch.cuda.set_device(gpu)
    # Ctrl-C reaches the whole process group; the sweep's process tells the workers to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.messages, _worker.stop = messages, stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the sweep's process was killed; the checkpoint is what a kill leaves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(index: int, configs: Sequence[Config]) -> list[Outcome]:
    if _worker.stop.is_set():
        raise Stopped
    return execute(configs, _WorkerObserver(index, _worker.messages, _worker.stop))
