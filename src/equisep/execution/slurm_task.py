"""The work of a SLURM task: one population, started or resumed, until it is done or SLURM gives notice."""

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

POLL_INTERVAL_S = 2.0
# How long a task waits for a run that another process holds, and for a queue that does not answer.
LOCK_WAIT_S = LEASE_S + 60.0
QUEUE_WAIT_S = 30.0
LOG_INTERVAL_S = 30.0


@dataclass
class PopulationTask:
    """The work of one task of the array: start or resume one population. configs: of its members. gpus: of the task."""

    configs: list[Config]
    gpus: int

    def __call__(self) -> list[str]:
        """Train and measure the population and return the states of its runs."""
        if self.gpus and not torch.cuda.is_available():
            raise RuntimeError(
                f"hydra.launcher.gpus={self.gpus}: torch {torch.__version__} finds no GPU on {os.uname().nodename}; "
                "install a CUDA build of torch, set hydra.launcher.partition to one with GPUs, or set gpus=0"
            )
        observer = _TaskObserver()
        with PreemptionHandler(observer) as requeue:
            until = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    return [outcome.state for outcome in execute(self.configs, observer)]
                except InUse as error:
                    # An earlier task may still be ending; the lock is released when its job or heartbeat stops.
                    if observer.wants_stop():
                        requeue()
                    if observer.wants_stop() or time.monotonic() > until:
                        raise
                    observer.say(f"waiting: {error}")
                    time.sleep(POLL_INTERVAL_S)
                except Stopped:
                    requeue()
                    raise

    def checkpoint(self) -> Any:
        """Return what submitit requeues: this task unchanged, since runs resume from their own checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _TaskObserver(Observer):
    """Writes lines to the task's log, and stops training when SLURM gives notice."""

    def __init__(self) -> None:
        self.notice: int | None = None
        self.logged_at = 0.0

    def say(self, line: str) -> None:
        """Write a line."""
        print(line, flush=True)

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        """Write the epoch, once per LOG_INTERVAL_S."""
        if time.monotonic() - self.logged_at > LOG_INTERVAL_S:
            self.logged_at = time.monotonic()
            print(f"epoch {epoch}", flush=True)

    def wants_stop(self) -> bool:
        """Return whether SLURM gave notice."""
        return self.notice is not None


class PreemptionHandler:
    """Replaces submitit's signal handlers, so that the epoch and its checkpoint are finished before the requeue."""

    SIGNALS = (signal.SIGUSR2, signal.SIGTERM)

    def __init__(self, observer: _TaskObserver) -> None:
        self.observer = observer

    def __enter__(self) -> Callable[[], None]:
        self.previous = {number: signal.signal(number, self._record_notice) for number in self.SIGNALS}
        return self._requeue

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _record_notice(self, number: int, frame: FrameType | None) -> None:
        self.observer.notice = self.observer.notice or number

    def _requeue(self) -> None:
        """Requeue the task, unless SLURM is ending or requeueing it already."""
        handler = self.previous[signal.SIGUSR2]
        if self.observer.notice is None or not callable(handler):
            return
        until = time.monotonic() + QUEUE_WAIT_S
        while (queue := queued_jobs()) is None and time.monotonic() < until:
            time.sleep(POLL_INTERVAL_S)
        task = queue.get(os.environ.get("SLURM_JOB_ID", "")) if queue is not None else None
        # Without an answer, requeueing once too often is better than losing the task.
        if queue is not None and (task is None or task.state != "RUNNING"):
            sys.exit(1)
        until = time.monotonic() + QUEUE_WAIT_S
        while True:
            try:
                # submitit's handler requeues the value of checkpoint() and ends the process.
                handler(self.observer.notice, None)
                return
            except subprocess.SubprocessError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_INTERVAL_S)
