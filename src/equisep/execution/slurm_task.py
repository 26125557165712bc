"""What runs inside a SLURM task: one population, from wherever it stands, until it is done or SLURM gives notice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from equisep.config import Config
from equisep.execution.progress import Observer
from equisep.execution.train import Stopped, execute
from equisep.store import LEASE_S, InUse, queued_jobs

# Seconds between looks at the queue; a task's patience with a run that another process holds, and with a queue that
# does not answer; and how long a file system may take to show what a task on another node wrote last.
POLL_INTERVAL_S = 2.0
LOCK_WAIT_S = LEASE_S + 60.0
QUEUE_WAIT_S = 30.0


@dataclass
class PopulationTask:
    """What a task of the array does: one population, from wherever it stands.

    configs: of its members. gpus: how many it was promised.
    """

    configs: list[Config]
    gpus: int

    def __call__(self) -> list[str]:
        """Train and measure the population and return the states of its runs."""
        if self.gpus and not torch.cuda.is_available():
            raise RuntimeError(
                f"promised {self.gpus} GPU and torch {torch.__version__} sees none on {os.uname().nodename}: "
                "is it a build for GPUs, and does the partition have them?"
            )
        observer = _TaskObserver()
        with PreemptionHandler(observer) as requeue:
            until = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    return [outcome.state for outcome in execute(self.configs, observer)]
                except InUse as error:
                    # A task that was here before may still be dying; it is found out by its job or its silence.
                    if observer.wants_stop():
                        requeue()
                    if observer.wants_stop() or time.monotonic() > until:
                        raise
                    observer.say(f"waits: {error}")
                    time.sleep(POLL_INTERVAL_S)
                except Stopped:
                    requeue()
                    raise

    def checkpoint(self) -> Any:
        """Return what submitit is to queue again: the same, since a run knows by itself how far it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _TaskObserver(Observer):
    """Writes lines into the task's log, and stops the training when SLURM gives notice."""

    def __init__(self) -> None:
        self.notice: int | None = None
        self.told = 0.0

    def say(self, line: str) -> None:
        """Write a line."""
        print(line, flush=True)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Write the epoch, every half minute."""
        if time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            print(f"epoch {epoch}", flush=True)

    def wants_stop(self) -> bool:
        """Return whether SLURM gave notice."""
        return self.notice is not None


class PreemptionHandler:
    """Takes over the signals that submitit listens to, so that an epoch and its checkpoint come before the requeue."""

    SIGNALS = (signal.SIGUSR2, signal.SIGTERM)

    def __init__(self, observer: _TaskObserver) -> None:
        self.observer = observer

    def __enter__(self) -> Callable[[], None]:
        self.before = {number: signal.getsignal(number) for number in self.SIGNALS}
        for number in self.SIGNALS:
            signal.signal(number, self._take_note)
        return self._requeue

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        self.observer.notice = self.observer.notice or number

    def _requeue(self) -> None:
        """Go back into the queue, unless SLURM is ending or requeueing the task by itself."""
        handler = self.before[signal.SIGUSR2]
        if self.observer.notice is None or not callable(handler):
            return
        until = time.monotonic() + QUEUE_WAIT_S
        while (queue := queued_jobs()) is None and time.monotonic() < until:
            time.sleep(POLL_INTERVAL_S)
        task = queue.get(os.environ.get("SLURM_JOB_ID", "")) if queue is not None else None
        # Of a queue that stays silent nothing is known: better queued once too often than lost.
        if queue is not None and (task is None or task.state != "RUNNING"):
            sys.exit(1)
        until = time.monotonic() + QUEUE_WAIT_S
        while True:
            try:
                # submitit's own: it queues checkpoint()'s answer and ends the process.
                handler(self.observer.notice, None)
                return
            except subprocess.SubprocessError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_INTERVAL_S)
