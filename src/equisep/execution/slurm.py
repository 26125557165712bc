"""A sweep's populations on a SLURM cluster: submitted through submitit as a job array, a task per population.

A task that is preempted, reaches its time limit or is told to end writes a checkpoint after the epoch and is requeued;
it resumes from there. The process that submitted may end: the store holds the state of each run and, in
``submitted.json``, which task has it; whether that task is alive is known from squeue, by its id and by the unique name
of its submission. What is about to be submitted is written to the store first. A later call of the same sweep submits
what is missing and nothing else.
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from equisep.config import Config, ConfigError
from equisep.execution.job import Job
from equisep.execution.slurm_options import Resources, refuse_idle_or_missing
from equisep.execution.slurm_task import POLL_INTERVAL_S, PopulationTask
from equisep.execution.train import Stopped
from equisep.execution.workers import ReportEnd, Result
from equisep.files import write_atomically
from equisep.store import (
    InUse,
    Outcome,
    QueuedTask,
    Run,
    Submitted,
    describe_owner,
    held,
    is_queued,
    outcome_of_task,
    queue_knows,
    queued_jobs,
)

# Timeouts after which submitit gives a task up; each is progress of a whole time limit.
MOST_TIMEOUTS = 1000
# Tasks of an array; SLURM's own limit, MaxArraySize, is 1,001 unless the cluster says otherwise.
LARGEST_ARRAY = 1000
FILE_SYSTEM_DELAY_S = 60.0
# Seconds after which an sbatch that was begun has handed over its array, or never will.
SUBMISSION_TIMEOUT_S = 600.0


def run_in_process(
    populations: Sequence[Sequence[Job]], end: ReportEnd, console: Console, *, resources: Resources
) -> None:
    """Run the populations as tasks of submitit one after another, in this process, without SLURM."""
    import submitit

    for index, population in enumerate(populations):
        results = Path(population[0].config.results).resolve()
        (results / "slurm").mkdir(parents=True, exist_ok=True)
        task = submitit.DebugExecutor(results / "slurm/%j").submit(_task_of(population, resources))
        # The debug executor runs a task when its exception is asked for.
        error = task.exception()
        if isinstance(error, Stopped):
            raise KeyboardInterrupt
        if error is not None and not isinstance(error, Exception):
            raise error
        end(index, error or [job.outcome() for job in population])
    if populations:
        console.print(f"ran {len(populations)} tasks in this process", highlight=False)


def run_on_cluster(
    populations: Sequence[Sequence[Job]], end: ReportEnd, console: Console, *, resources: Resources, wait: bool
) -> None:
    """Submit the populations that no task has, and report the end of each as it comes.

    wait: stay until all tasks have ended; else the state of each is reported at once. After Ctrl-C the tasks keep
    running.
    """
    if not populations:
        return
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm: no sbatch on this machine; run this on a login node of the cluster, or use hydra/launcher=debug"
        )
    for job in (job for population in populations for job in population):
        refuse_idle_or_missing(job.config, resources)
    results = Path(populations[0][0].config.results).resolve()
    (results / "slurm").mkdir(parents=True, exist_ok=True)
    with _submitting(results, console):
        tasks, others = _submit(populations, resources, results, console)
    waiting = dict(enumerate(populations))
    ended_at: dict[int, float] = {}
    try:
        while waiting:
            queue = queued_jobs()
            for index, population in list(waiting.items()):
                submitted = [job for job in population if job in tasks]
                # A queue that does not answer says nothing about a task.
                if wait and any(queue is None or is_queued(tasks[job], queue) for job in submitted):
                    continue
                outcomes = {
                    job: others[job]
                    if job in others
                    else outcome_of_task(job.run, job.config, tasks[job], queue, results)
                    for job in population
                }
                failed = any(isinstance(outcomes[job], Exception) for job in submitted)
                if failed and time.monotonic() - ended_at.setdefault(index, time.monotonic()) < FILE_SYSTEM_DELAY_S:
                    continue
                del waiting[index]
                end(index, list(outcomes.values()))
                for outcome in outcomes.values() if wait else ():
                    if isinstance(outcome, Outcome):
                        console.print(str(outcome), highlight=False, soft_wrap=True)
            if waiting:
                time.sleep(POLL_INTERVAL_S)
    except KeyboardInterrupt:
        text = "the tasks keep running; run the same command again to follow them, or end them with scancel"
        console.print(text, highlight=False)
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
                time.sleep(POLL_INTERVAL_S / 4)
        yield


def _submit(
    populations: Sequence[Sequence[Job]], resources: Resources, results: Path, console: Console
) -> tuple[dict[Job, Submitted], dict[Job, Result]]:
    """Submit the runs that no task and no process has, a task per population.

    Returns the task of each job or, for a job that needs or gets none, its result: it is complete by now, or a
    process outside the queue has it.
    """
    queue = queued_jobs()
    if queue is None:
        raise ConfigError("hydra/launcher=slurm: squeue does not answer, so what is already queued is not known")
    recover_orphaned_arrays(results, queue, console)
    tasks: dict[Job, Submitted] = {}
    owners: dict[Job, dict[str, Any]] = {}
    complete: dict[Job, Result] = {}
    for job in (job for population in populations for job in population):
        submitted, owner = job.run.submitted(), job.run.owner()
        # Runs that an earlier call of the sweep grouped in another way stay in its tasks.
        if submitted and is_queued(submitted, queue):
            tasks[job] = submitted
        # An owner whose job has left the queue is about to end, and the task waits for that.
        elif owner and not (queue_knows(owner) and owner["job"] not in queue):
            owners[job] = owner
        elif job.complete:
            # By another call, while this one waited for its turn.
            complete[job] = job.outcome()
    if tasks:
        console.print(f"{len(tasks)} runs are already queued or running", highlight=False)
    who = ", ".join(sorted({describe_owner(owner) for owner in owners.values()}))
    error = InUse(f"{len(owners)} runs are in use by {who} and were not submitted; run the same command again later")
    taken = tasks.keys() | owners.keys() | complete.keys()
    rest = [[job for job in population if job not in taken] for population in populations]
    fresh = [population for population in rest if population]
    # What one array has submitted is known to later calls before the next array is submitted.
    for start in range(0, len(fresh), LARGEST_ARRAY):
        array = fresh[start : start + LARGEST_ARRAY]
        array_tasks = _submit_array(array, resources, results)
        for population, task in zip(array, array_tasks, strict=True):
            tasks |= dict.fromkeys(population, task)
        runs = sum(map(len, array))
        text = f"submitted {runs} runs as {len(array_tasks)} tasks, the first {array_tasks[0].task}"
        console.print(text, highlight=False)
    return tasks, complete | dict.fromkeys(owners, error)


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
    # Read by recover_orphaned_arrays where this process is killed before all is marked, or sbatch's answer is lost.
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


def recover_orphaned_arrays(results: Path, queue: dict[str, QueuedTask], console: Console) -> None:
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
        if tasks or time.time() - intention.stat().st_mtime > SUBMISSION_TIMEOUT_S:
            intention.unlink()


def _task_of(population: Sequence[Job], resources: Resources) -> PopulationTask:
    return PopulationTask([_from_anywhere(job.config) for job in population], resources.gpus)


def _from_anywhere(config: Config) -> Config:
    """Return a config whose folders are found from whatever folder the task is started in."""
    dataset = replace(config.dataset, root=str(Path(config.dataset.root).resolve()))
    return replace(config, dataset=dataset, results=str(Path(config.results).resolve()))
