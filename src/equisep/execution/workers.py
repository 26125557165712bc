"""Worker processes: a sweep's units of work in parallel on this machine's cores or GPUs."""

import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from equisep.execution.job import Job
from equisep.execution.progress import Observer, SweepTable, TableObserver, stopping_on_interrupt
from equisep.execution.train import Stopped, execute
from equisep.process import prepare_process
from equisep.store import Outcome

Result = Outcome | Exception
# Called when a population has ended, with its index and either a result for each member or one exception for all.
ReportEnd = Callable[[int, Sequence[Result] | Exception], None]
REPORT_INTERVAL_S = 0.3
# Forking a process that has imported torch is tried on Linux only.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def run_in_workers(populations: Sequence[Sequence[Job]], end: ReportEnd, workers: int, console: Console) -> None:
    """Run the populations in this number of worker processes and report each when it ends.

    Raises KeyboardInterrupt after Ctrl-C, when every population has written its checkpoint.
    """
    context: Any = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        # Imported once, for all workers.
        context.set_forkserver_preload([__name__])
    messages: Any = context.Queue()
    stop = context.Event()
    table = _table_of(populations, console)
    remaining_tries = dict.fromkeys(range(len(populations)), 2)
    with table.shown(), stopping_on_interrupt(partial(table.stop, stop)):
        # A worker that dies, for example without memory, breaks its pool; the other work continues in a new one.
        while remaining_tries and not stop.is_set():
            count = min(workers, len(remaining_tries))
            gpus = context.SimpleQueue()
            for worker in range(count):
                gpus.put(gpu_of_worker(worker, torch.cuda.device_count()))
            with ProcessPoolExecutor(count, context, _initialise_worker, (messages, stop, gpus)) as pool:
                ended = _run_pool(pool, {index: populations[index] for index in remaining_tries}, messages, table, end)
            broken = {index: tries - 1 for index, tries in remaining_tries.items() if index not in ended}
            remaining_tries = {index: tries for index, tries in broken.items() if tries}
            for index in [] if stop.is_set() else broken.keys() - remaining_tries.keys():
                end(index, RuntimeError("its worker process died twice; out of memory? set hydra.launcher.processes=1"))
    if stop.is_set():
        raise KeyboardInterrupt


def run_in_turn(populations: Sequence[Sequence[Job]], end: ReportEnd, console: Console) -> None:
    """Run the populations in this process, one after another; raises KeyboardInterrupt as :func:`run_in_workers`."""
    stop = threading.Event()
    table = _table_of(populations, console)
    with table.shown(), stopping_on_interrupt(partial(table.stop, stop)):
        for index, population in enumerate(populations):
            try:
                outcomes = execute([job.config for job in population], TableObserver(index, table, stop.is_set))
            except Stopped:
                raise KeyboardInterrupt from None
            except Exception as error:
                table.end(index, "failed")
                end(index, error)
            else:
                for outcome in outcomes:
                    table.say(str(outcome))
                table.end(index, "done")
                end(index, outcomes)
            if stop.is_set():
                raise KeyboardInterrupt


def _table_of(populations: Sequence[Sequence[Job]], console: Console) -> SweepTable:
    units = [
        (jobs[0].shared_title, len({job.run.path for job in jobs}), jobs[0].config.training.epochs)
        for jobs in populations
    ]
    return SweepTable(units, console)


def _run_pool(
    pool: ProcessPoolExecutor,
    populations: Mapping[int, Sequence[Job]],
    messages: Any,
    table: SweepTable,
    end: ReportEnd,
) -> list[int]:
    """Run populations in a pool and return those that ended, in any state; for the others the pool was broken."""
    # The processes inherit the ignored signal when they start: only this process handles Ctrl-C.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    futures: dict[Future[list[Outcome]], int] = {
        pool.submit(_run_in_worker, index, [job.config for job in population]): index
        for index, population in populations.items()
    }
    signal.signal(signal.SIGINT, previous)
    waiting = set(futures)
    ended = []
    while waiting:
        finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        _show_messages(messages, table)
        for future in finished:
            index, error = futures[future], future.exception()
            if isinstance(error, BrokenProcessPool):
                table.say(f"a worker process died; {populations[index][0].shared_title} continues in a new one")
                continue
            ended.append(index)
            if error is None:
                for outcome in future.result():
                    table.say(str(outcome))
                table.end(index, "done")
                end(index, future.result())
            elif isinstance(error, Stopped):
                table.end(index, "interrupted")
            else:
                table.end(index, "failed")
                end(index, error if isinstance(error, Exception) else RuntimeError(str(error)))
    return ended


def _show_messages(messages: Any, table: SweepTable) -> None:
    """Call the methods of the table that the messages name."""
    with suppress(queue.Empty):
        while True:
            method, *arguments = messages.get_nowait()
            getattr(table, method)(*arguments)


class _WorkerObserver(Observer):
    """Sends the progress of a population to the sweep's process."""

    def __init__(self, index: int, messages: Any, stop: Any) -> None:
        self.index, self.messages, self.stop = index, messages, stop
        self.reported_at = 0.0

    def say(self, line: str) -> None:
        if not line.startswith("run "):
            self.messages.put(("say", line))

    def begin(self, members: int, epochs: int, done: int) -> None:
        self.messages.put(("begin", self.index, done))

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        if time.monotonic() - self.reported_at > REPORT_INTERVAL_S:
            self.reported_at = time.monotonic()
            self.messages.put(("advance", self.index, epoch))

    def wants_stop(self) -> bool:
        return bool(self.stop.is_set())


# The channels to the sweep's process, set when a worker process starts.
_worker = SimpleNamespace()


def gpu_of_worker(worker: int, gpus: int) -> int | None:
    """Return the number of a worker's GPU, None without GPUs; workers share the machine's GPUs evenly."""
    return worker % gpus if gpus else None


def _initialise_worker(messages: Any, stop: Any, gpus: Any) -> None:
    prepare_process()
    gpu = gpus.get()
    if gpu is not None:
        torch.cuda.set_device(gpu)
    # Ctrl-C reaches the whole process group; the sweep's process stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.messages, _worker.stop = messages, stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the sweep's process was killed; the last checkpoint remains."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(index: int, configs: Sequence[Any]) -> list[Outcome]:
    if _worker.stop.is_set():
        raise Stopped
    return execute(configs, _WorkerObserver(index, _worker.messages, _worker.stop))
