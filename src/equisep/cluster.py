"""A sweep's populations on a SLURM cluster: submitted through submitit as a job array, a task a population.

A task that is preempted, runs out of time or is told to end writes a checkpoint after the epoch and goes back into the
queue, where it goes on from there. The process that submitted may go: what became of a run stands in the store, which
task has it in ``submitted.json`` beside it, and whether that task still lives squeue says. A later call of the same
sweep submits what is missing and nothing else.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from equisep.locks import LEASE, InUse, held, queued_jobs
from equisep.observer import Observer
from equisep.run import Job, Stopped, execute, outcome_of
from equisep.schema import Config, ConfigError
from equisep.sweep import Ended, summary
from equisep.training import Epoch

# Timeouts after which submitit gives a task up; each is progress of a whole time limit.
MOST_TIMEOUTS = 1000
# Tasks of an array; SLURM's own limit, MaxArraySize, is 1,001 unless the cluster says otherwise.
LARGEST_ARRAY = 1000
# Seconds between looks at the queue, and a task's patience with a run that another process holds.
POLL = 2.0
PATIENCE = LEASE + 60.0


@dataclass(frozen=True)
class Resources:
    """What a task of the array is given; the fields of conf/hydra/launcher/slurm.yaml, which describes them.

    Raises ConfigError for what SLURM could not give.
    """

    partition: str | None
    account: str | None
    qos: str | None
    gpus: int
    cpus: int
    memory: float
    minutes: int
    parallel: int
    notice: int
    modules: Sequence[str]
    setup: Sequence[str]
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        for name, kind in (("modules", Sequence), ("setup", Sequence), ("options", Mapping)):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, str):
                raise ConfigError(
                    f"hydra.launcher.{name}={value}: give {'names with values' if kind is Mapping else 'a list'}"
                )
        for name, least in (("gpus", 0), ("cpus", 1), ("memory", 0.1), ("minutes", 1), ("parallel", 1), ("notice", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (name == "memory" and isinstance(value, float))):
                raise ConfigError(
                    f"hydra.launcher.{name}={value}: give a number{'' if name == 'memory' else ' without a point'}"
                )
            if value < least:
                raise ConfigError(f"hydra.launcher.{name}={getattr(self, name)}: give at least {least}")
        if self.notice >= 60 * self.minutes:
            limit = 60 * self.minutes
            raise ConfigError(f"hydra.launcher.notice={self.notice}: give less than a task's {limit} seconds")

    def sbatch(self) -> dict[str, Any]:
        """Return submitit's parameters."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        lines = [*(f"module load {module}" for module in self.modules), *self.setup]
        # A task that SLURM requeues by itself appends to its log.
        chosen = {name: value for name, value in named.items() if value is not None}
        return chosen | {
            "job_name": "equisep",
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}MB",
            "gpus_per_node": self.gpus or None,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.notice,
            "setup": lines,
            "additional_parameters": {"requeue": True, **self.options},
        }


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
        with observer.listening() as requeue:
            until = time.monotonic() + PATIENCE
            while True:
                try:
                    return [outcome.state for outcome in execute(self.configs, observer)]
                except InUse as error:
                    # A task that was here before may still be dying; it is found out by its job or its silence.
                    if time.monotonic() > until:
                        raise
                    observer.say(f"waits: {error}")
                    time.sleep(POLL)
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
        print(line, flush=True)

    def advance(self, members: Sequence[Epoch]) -> None:
        if time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            print(f"epoch {members[0].epoch}", flush=True)

    def wants_stop(self) -> bool:
        return self.notice is not None

    def listening(self) -> _Listening:
        return _Listening(self)


class _Listening:
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
        states = queued_jobs() or {}
        if self.observer.notice is None or not callable(handler):
            return
        if states.get(os.environ.get("SLURM_JOB_ID", "")) != "RUNNING":
            sys.exit(1)
        # submitit's own: it queues checkpoint()'s answer and ends the process.
        handler(self.observer.notice, None)


def run_on_cluster(
    populations: Sequence[Sequence[Job]],
    end: Ended,
    console: Console,
    *,
    resources: Resources,
    debug: bool,
    wait: bool,
) -> None:
    """Submit the populations that no task has, and tell ``end`` what became of each as it comes.

    debug: run the same path in this process, without SLURM. wait: stay until all tasks are through; else every one
    that is not is told as it is. After Ctrl-C the tasks go on.
    """
    if not populations:
        return
    if not debug and shutil.which("sbatch") is None:
        raise ConfigError("hydra/launcher=slurm: there is no sbatch here; type this where SLURM is, or take debug")
    results = Path(populations[0][0].config.results).resolve()
    (results / "slurm").mkdir(parents=True, exist_ok=True)
    with _submitting(results, console):
        tasks = _submit(populations, resources, results, console, debug=debug)
    waiting = dict(enumerate(populations))
    try:
        while waiting:
            queued = {} if debug else queued_jobs()
            for index, population in list(waiting.items()):
                # A queue that does not answer says nothing of a task.
                living = [job for job in population if queued is None or tasks[id(job)] in queued]
                if not (living and wait):
                    del waiting[index]
                    alive = {id(job) for job in living}
                    end(index, [_end_of(job, tasks[id(job)], id(job) in alive, results) for job in population])
            if waiting:
                time.sleep(POLL)
    except KeyboardInterrupt:
        console.print("the tasks go on; the same command looks after them again, scancel ends them", highlight=False)
        raise


@contextmanager
def _submitting(results: Path, console: Console) -> Iterator[None]:
    """Hold the store's submissions: of two sweeps begun at once the second sees what the first has submitted."""
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(results / "slurm/submitting.json", "the store's queue"))
                break
            except InUse as error:
                if not told:
                    console.print(f"waits: {error}", highlight=False)
                told = True
                time.sleep(POLL / 4)
        yield


def _submit(
    populations: Sequence[Sequence[Job]], resources: Resources, results: Path, console: Console, *, debug: bool
) -> dict[int, str]:
    """Return the task of each job, by the job's id(); the jobs that no task has are submitted, a population a task."""
    queued = {} if debug else queued_jobs()
    if queued is None:
        raise ConfigError("hydra/launcher=slurm: squeue does not answer, and what is queued already cannot be known")
    tasks: dict[int, str] = {}
    for job in (job for population in populations for job in population):
        # What an earlier call of the sweep cut in another way stays in the tasks that it made.
        task = job.run.submitted()
        if task and task in queued:
            tasks[id(job)] = task
    if tasks:
        console.print(f"{len(tasks)} runs are queued or running already", highlight=False)
    rest = [[job for job in population if id(job) not in tasks] for population in populations]
    fresh = [population for population in rest if population]
    # A cluster takes arrays of so many tasks, mostly; what was submitted is known to later calls at once.
    for start in range(0, len(fresh), LARGEST_ARRAY):
        array = fresh[start : start + LARGEST_ARRAY]
        told = [
            PopulationTask([_from_anywhere(job.config) for job in population], resources.gpus) for population in array
        ]
        for job in (job for population in array for job in population):
            job.create_run()
        ids = _submit_array(told, resources, results, debug=debug)
        for task, population in zip(ids, array, strict=True):
            for job in population:
                tasks[id(job)] = task
                job.run.mark_submitted(task)
        runs = sum(map(len, array))
        console.print(f"submitted {runs} runs as {len(ids)} tasks, from {ids[0]} on", highlight=False)
    return tasks


def _submit_array(tasks: Sequence[PopulationTask], resources: Resources, results: Path, *, debug: bool) -> list[str]:
    """Submit tasks as one array and return their ids; debug: run them here, one after another."""
    import submitit

    folder = results / "slurm/%j"
    if debug:
        jobs: list[Any] = [submitit.DebugExecutor(folder).submit(task) for task in tasks]
        for job in jobs:
            # Asking for it runs it.
            error = job.exception()
            if error is not None:
                raise error
        return [str(job.job_id) for job in jobs]
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(**resources.sbatch())
    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"hydra/launcher=slurm: sbatch refused: {str(error).strip().splitlines()[-1]}") from None
    return [str(job.job_id) for job in jobs]


def _from_anywhere(config: Config) -> Config:
    """Return a config whose folders are found from whatever folder the task is started in."""
    dataset = replace(config.dataset, root=str(Path(config.dataset.root).resolve()))
    return replace(config, dataset=dataset, results=str(Path(config.results).resolve()))


def _end_of(job: Job, task: str, lives: bool, results: Path) -> Any:
    """Return what became of a job's run, or why it is not done."""
    if job.run.finished and not job.missing():
        return summary(outcome_of(job))
    if lives:
        return {"run": job.run.id, "state": f"in task {task}", "trained_epochs": 0}
    (log, *_) = [*sorted((results / "slurm").glob(f"*/{task}_0_log.err")), Path(f"{results}/slurm")]
    told = log.read_text().splitlines() if log.is_file() else []
    # What srun and slurmd add says that the task ended, not why.
    lines = [line for line in told if not line.startswith(("srun:", "slurmstepd:"))]
    last = f": {lines[-1]}" if lines else ""
    remedy = "the same command goes on from the last checkpoint"
    return RuntimeError(f"task {task} ended before its runs ({log}){last}; {remedy}")
