"""A sweep's populations on a SLURM cluster: submitted through submitit as a job array, a task a population.

A task that is preempted, runs out of time or is told to end writes a checkpoint after the epoch and goes back into the
queue, where it goes on from there. The process that submitted may go: what became of a run stands in the store, which
task has it in ``submitted.json`` beside it, and whether that task still lives squeue says, by its number and by the
name of its submission, which no other has. What a submission is about to hand over stands in the store before it does.
A later call of the same sweep submits what is missing and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from equisep.files import write_atomically
from equisep.locks import LEASE, InUse, QueuedTask, TaskEnded, describe_owner, held, queue_knows, queued_jobs
from equisep.observer import Observer
from equisep.run import Job, Stopped, execute, outcome_of
from equisep.runs import DamagedRun, Run, Submitted
from equisep.schema import Config, ConfigError
from equisep.sweep import Ended, Result, describe, refuse_unless_whole, summary
from equisep.training import Epoch

# Timeouts after which submitit gives a task up; each is progress of a whole time limit.
MOST_TIMEOUTS = 1000
# Tasks of an array; SLURM's own limit, MaxArraySize, is 1,001 unless the cluster says otherwise.
LARGEST_ARRAY = 1000
# Seconds between looks at the queue; a task's patience with a run that another process holds, and with a queue that
# does not answer; and how long a file system may take to show what a task on another node wrote last.
POLL = 2.0
PATIENCE = LEASE + 60.0
SILENCE = 30.0
SETTLING = 60.0
# Seconds after which an sbatch that was begun has handed over its array, or never will.
UNDER_WAY = 600.0

# Of what SLURM itself writes into a task's log: why it ended the task.
REASONS = ("oom_kill", "oom-kill", "out of memory", "time limit", "node failure")

# Options of sbatch that are not free, and what does their work.
OPTIONS_TAKEN = {
    "account": "hydra.launcher.account",
    "array": "hydra.launcher.max_members and parallel",
    "chdir": "results, a folder of its own",
    "clusters": "the machine that this is typed on",
    "cpus-per-task": "hydra.launcher.cpus",
    "error": "results, below which the logs are",
    "export": "the launcher: a task has this environment",
    "gpus": "hydra.launcher.gpus",
    "gpus-per-task": "hydra.launcher.gpus",
    "gres": "hydra.launcher.gpus",
    "gpus-per-node": "hydra.launcher.gpus",
    "job-name": "the submission, which is known by it",
    "mem": "hydra.launcher.memory",
    "mem-per-cpu": "hydra.launcher.memory",
    "mem-per-gpu": "hydra.launcher.memory",
    "no-requeue": "the launcher: tasks are requeued",
    "nodes": "the launcher: a task is one process",
    "ntasks": "the launcher: a task is one process",
    "ntasks-per-node": "the launcher: a task is one process",
    "open-mode": "the launcher: logs are appended to",
    "output": "results, below which the logs are",
    "parsable": "the launcher, which reads what sbatch says",
    "partition": "hydra.launcher.partition",
    "qos": "hydra.launcher.qos",
    "quiet": "the launcher, which reads what sbatch says",
    "requeue": "the launcher: tasks are requeued",
    "signal": "hydra.launcher.notice",
    "test-only": "hydra/launcher=debug",
    "time": "hydra.launcher.minutes",
    "wait": "hydra.launcher.wait",
    "wrap": "hydra.launcher.setup",
}


@dataclass(frozen=True)
class Resources:
    """What a task of the array is given; the fields of conf/hydra/launcher/slurm.yaml, which describes them.

    Raises ConfigError for what SLURM could not give, or a task could not use: it trains one population, on one GPU.
    """

    partition: str | None
    account: str | None
    qos: str | None
    gpus: int
    gpu_memory: float | None
    cpus: int
    memory: float
    minutes: int
    parallel: int
    notice: int
    modules: Sequence[str]
    setup: Sequence[str]
    options: Mapping[str, object]

    def __post_init__(self) -> None:
        self._refuse_texts()
        self._refuse_numbers()
        for option, value in self.options.items():
            does_it = OPTIONS_TAKEN.get(str(option).replace("_", "-"))
            if does_it:
                raise ConfigError(f"hydra.launcher.options.{option}: not free, {does_it} does it; leave it out")
            if value is None or value is False:
                raise ConfigError(f"hydra.launcher.options.{option}={value}: give a value, or true, or leave it out")

    def _refuse_texts(self) -> None:
        for name in ("partition", "account", "qos"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"hydra.launcher.{name}={value}: give a name, or null")
        for name in ("modules", "setup"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ConfigError(f"hydra.launcher.{name}={value}: give a list")
            if not all(isinstance(line, str) and line.strip() for line in value):
                raise ConfigError(f"hydra.launcher.{name}={list(value)}: give text, none of it empty")
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"hydra.launcher.options={self.options}: give names with values")

    def _refuse_numbers(self) -> None:
        for name, least in (("gpus", 0), ("cpus", 1), ("minutes", 1), ("parallel", 1), ("notice", 1)):
            refuse_unless_whole(name, getattr(self, name), least)
        _refuse_unless_memory("memory", self.memory, "at least 0.1 GB", 0.1)
        if self.gpu_memory is not None:
            _refuse_unless_memory("gpu_memory", self.gpu_memory, "the GB of a task's GPU, or null", 0.1)
        if self.gpus > 1:
            raise ConfigError(
                f"hydra.launcher.gpus={self.gpus}: a task trains one population on one GPU; "
                "give 1, and more GPUs are used by more tasks (hydra.launcher.parallel)"
            )
        if self.notice >= 60 * self.minutes:
            limit = 60 * self.minutes
            raise ConfigError(f"hydra.launcher.notice={self.notice}: give less than a task's {limit} seconds")

    def gpu_bytes(self) -> float:
        """Return the memory that a task's population has to fit into: what is told, or this machine's, or no bound."""
        if self.gpus and self.gpu_memory is not None:
            return self.gpu_memory * 1e9
        if self.gpus and torch.cuda.is_available():
            return float(torch.cuda.mem_get_info()[0])
        return math.inf

    def sbatch(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters for a submission of a name."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        lines = [*(f"module load {module}" for module in self.modules), *self.setup]
        # A task that SLURM requeues by itself appends to its log.
        chosen = {name: value for name, value in named.items() if value is not None}
        return chosen | {
            "job_name": name,
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}MB",
            "gpus_per_node": self.gpus or None,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.notice,
            "setup": lines,
            "additional_parameters": {"requeue": True, **self.options},
        }


def _refuse_unless_memory(name: str, value: object, wanted: str, least: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= float(value) < math.inf):  # type: ignore[arg-type]
        raise ConfigError(f"hydra.launcher.{name}={value}: give {wanted}")


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
                    if observer.wants_stop():
                        requeue()
                    if observer.wants_stop() or time.monotonic() > until:
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
        if self.observer.notice is None or not callable(handler):
            return
        until = time.monotonic() + SILENCE
        while (queue := queued_jobs()) is None and time.monotonic() < until:
            time.sleep(POLL)
        task = queue.get(os.environ.get("SLURM_JOB_ID", "")) if queue is not None else None
        # Of a queue that stays silent nothing is known: better queued once too often than lost.
        if queue is not None and (task is None or task.state != "RUNNING"):
            sys.exit(1)
        until = time.monotonic() + SILENCE
        while True:
            try:
                # submitit's own: it queues checkpoint()'s answer and ends the process.
                handler(self.observer.notice, None)
                return
            except subprocess.SubprocessError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL)


def run_in_process(populations: Sequence[Sequence[Job]], end: Ended, console: Console, *, resources: Resources) -> None:
    """Take the populations through submitit's and a task's path one after another, in this process, without SLURM."""
    import submitit

    for index, population in enumerate(populations):
        results = Path(population[0].config.results).resolve()
        (results / "slurm").mkdir(parents=True, exist_ok=True)
        task = submitit.DebugExecutor(results / "slurm/%j").submit(_task_of(population, resources))
        # Asking for it runs it.
        error = task.exception()
        if isinstance(error, Stopped):
            raise KeyboardInterrupt
        if error is not None and not isinstance(error, Exception):
            raise error
        end(index, error or [summary(outcome_of(job)) for job in population])
    if populations:
        console.print(f"ran {len(populations)} tasks in this process", highlight=False)


def run_on_cluster(
    populations: Sequence[Sequence[Job]], end: Ended, console: Console, *, resources: Resources, wait: bool
) -> None:
    """Submit the populations that no task has, and tell ``end`` what became of each as it comes.

    wait: stay until all tasks are through; else every one that is not is told as it is. After Ctrl-C the tasks go on.
    """
    if not populations:
        return
    if shutil.which("sbatch") is None:
        raise ConfigError("hydra/launcher=slurm: there is no sbatch here; type this where SLURM is, or take debug")
    for job in (job for population in populations for job in population):
        _refuse_idle_or_missing(job.config, resources)
    results = Path(populations[0][0].config.results).resolve()
    (results / "slurm").mkdir(parents=True, exist_ok=True)
    with _submitting(results, console):
        tasks, others = _submit(populations, resources, results, console)
    waiting = dict(enumerate(populations))
    gone: dict[int, float] = {}
    try:
        while waiting:
            queue = queued_jobs()
            for index, population in list(waiting.items()):
                # A queue that does not answer says nothing of a task.
                mine = {id(job): tasks[id(job)] for job in population if id(job) in tasks}
                living = {job for job, task in mine.items() if queue is None or task.lives_in(queue)}
                if living and wait:
                    continue
                ended = [
                    others.get(id(job)) or _end_of(job, tasks[id(job)], id(job) in living, results)
                    for job in population
                ]
                lost = any(
                    isinstance(ended[place], Exception) for place, job in enumerate(population) if id(job) in mine
                )
                if lost and time.monotonic() - gone.setdefault(index, time.monotonic()) < SETTLING:
                    continue
                del waiting[index]
                end(index, ended)
                for facts in ended if wait else ():
                    if not isinstance(facts, Exception):
                        console.print(describe(facts), highlight=False, soft_wrap=True)
            if waiting:
                time.sleep(POLL)
    except KeyboardInterrupt:
        console.print("the tasks go on; the same command looks after them again, scancel ends them", highlight=False)
        raise


def _refuse_idle_or_missing(config: Config, resources: Resources) -> None:
    """Raise ConfigError where a task would lack what its runs want, or leave idle what it is given."""
    device, threads = config.compute.device, config.compute.threads
    if device.startswith("cuda") and not resources.gpus:
        raise ConfigError(f"compute.device={device}: its task has no GPU, give hydra.launcher.gpus=1")
    if device == "cpu" and resources.gpus:
        raise ConfigError(f"hydra.launcher.gpus={resources.gpus}: idle with compute.device=cpu, give 0")
    if threads > resources.cpus:
        raise ConfigError(f"compute.threads={threads}: a task has hydra.launcher.cpus={resources.cpus}, give as many")


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
    populations: Sequence[Sequence[Job]], resources: Resources, results: Path, console: Console
) -> tuple[dict[int, Submitted], dict[int, Result]]:
    """Submit the runs that nobody has, a population a task.

    Returns by a job's id() its task, or, where it needs or gets none, what became of it: it is done by now, or a
    process outside the queue has it.
    """
    queue = queued_jobs()
    if queue is None:
        raise ConfigError("hydra/launcher=slurm: squeue does not answer, and what is queued already cannot be known")
    _adopt(results, queue, console)
    tasks: dict[int, Submitted] = {}
    owners: dict[int, dict[str, Any]] = {}
    ready: dict[int, Result] = {}
    for job in (job for population in populations for job in population):
        submitted, owner = job.run.submitted(), job.run.owner()
        # What an earlier call of the sweep cut in another way stays in the tasks that it made.
        if submitted and submitted.lives_in(queue):
            tasks[id(job)] = submitted
        # An owner in a job that the queue has no more is dying, and the task waits for that.
        elif owner and not (queue_knows(owner) and owner["job"] not in queue):
            owners[id(job)] = owner
        elif job.run.finished and not job.missing():
            # Done by another call while this one waited for its turn.
            ready[id(job)] = summary(outcome_of(job))
    if tasks:
        console.print(f"{len(tasks)} runs are queued or running already", highlight=False)
    who = ", ".join(sorted({describe_owner(owner) for owner in owners.values()}))
    error = InUse(f"{len(owners)} runs are in use by {who}: not submitted, the same command takes up what is left")
    taken = tasks.keys() | owners.keys() | ready.keys()
    rest = [[job for job in population if id(job) not in taken] for population in populations]
    fresh = [population for population in rest if population]
    # A cluster takes arrays of so many tasks, mostly; what was submitted is known to later calls at once.
    for start in range(0, len(fresh), LARGEST_ARRAY):
        array = fresh[start : start + LARGEST_ARRAY]
        given = _submit_array(array, resources, results)
        for population, submitted in zip(array, given, strict=True):
            tasks |= {id(job): submitted for job in population}
        runs = sum(map(len, array))
        console.print(f"submitted {runs} runs as {len(given)} tasks, from {given[0].task} on", highlight=False)
    return tasks, ready | dict.fromkeys(owners, error)


def _submit_array(array: Sequence[Sequence[Job]], resources: Resources, results: Path) -> list[Submitted]:
    """Submit populations as one array, mark which task has which run, and return the tasks."""
    import submitit

    tasks = [_task_of(population, resources) for population in array]
    for job in (job for population in array for job in population):
        job.create_run()
    name = f"equisep-{uuid.uuid4().hex[:12]}"
    # There before sbatch: a task whose log has no folder dies without a word, and SLURM may start it at once.
    folder = results / "slurm" / name
    folder.mkdir()
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(**resources.sbatch(name))
    # Read by _adopt where this process is killed before all is marked, or sbatch's answer is lost.
    intention = results / f"slurm/{name}.json"
    members = [[str(job.run.path.resolve()) for job in population] for population in array]
    write_atomically(intention, json.dumps(members).encode())
    try:
        with _no_options_in_the_environment(), executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[-1])
        raise ConfigError(f"hydra/launcher=slurm: sbatch refused: {reason}") from None
    submitted = [Submitted(str(job.job_id), name) for job in jobs]
    for task, population in zip(submitted, array, strict=True):
        for job in population:
            job.run.mark_submitted(task)
    intention.unlink()
    return submitted


@contextmanager
def _no_options_in_the_environment() -> Iterator[None]:
    """Take away the variables SBATCH_…, which would win over what the launcher asks for, the job's name too."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SBATCH_")}
    try:
        yield
    finally:
        os.environ.update(taken)


def _adopt(results: Path, queue: dict[str, QueuedTask], console: Console) -> None:
    """Take up the arrays of calls that were killed before they had marked what they submitted.

    A task whose call was killed before it had put down what the task is to do is ended, and leaves the queue.
    """
    from submitit.core.utils import JobPaths

    for intention in sorted((results / "slurm").glob("equisep-*.json")):
        members = json.loads(intention.read_text())
        tasks = {task for task in queue.values() if task.name == intention.stem}
        able = {task for task in tasks if JobPaths(intention.with_suffix(""), job_id=task.id).submitted_pickle.exists()}
        for task in able:
            for member in map(Path, members[int(task.id.partition("_")[2] or 0)]):
                # Somebody may have removed the run meanwhile; its task makes it anew.
                with suppress(FileNotFoundError):
                    Run(member.parents[1], member.name).mark_submitted(Submitted(task.id, task.name))
        unable = sorted(task.id for task in tasks - able)
        if unable:
            console.print(f"ended {len(unable)} tasks of a call that was killed while it submitted", highlight=False)
            subprocess.run(["scancel", *unable], check=False)
        # Where none is queued, an sbatch that outlived its call may still be under way.
        if tasks or time.time() - intention.stat().st_mtime > UNDER_WAY:
            intention.unlink()


def _task_of(population: Sequence[Job], resources: Resources) -> PopulationTask:
    return PopulationTask([_from_anywhere(job.config) for job in population], resources.gpus)


def _from_anywhere(config: Config) -> Config:
    """Return a config whose folders are found from whatever folder the task is started in."""
    dataset = replace(config.dataset, root=str(Path(config.dataset.root).resolve()))
    return replace(config, dataset=dataset, results=str(Path(config.results).resolve()))


def _end_of(job: Job, submitted: Submitted, lives: bool, results: Path) -> Result:
    """Return what became of a job's run, or why it is not done."""
    task = submitted.task
    try:
        if job.run.finished and not job.missing():
            return summary(outcome_of(job))
    except DamagedRun as error:
        return error
    if lives:
        return {"run": job.run.id, "state": f"in task {task}", "trained_epochs": 0}
    log = results / "slurm" / submitted.submission / f"{task}_0_log.err"
    told = log.read_text(errors="replace").splitlines() if log.is_file() else []
    # What srun and slurmd add says that the task ended, and mostly not why; where it does, nothing else does.
    reasons = [line for line in told if any(word in line.lower() for word in REASONS)]
    lines = reasons or [line for line in told if not line.startswith(("srun:", "slurmstepd:"))]
    last = f": {lines[-1]}" if lines else ""
    remedy = "the same command goes on from the last checkpoint"
    return TaskEnded(f"task {task} ended before its runs ({log}){last}; {remedy}")
