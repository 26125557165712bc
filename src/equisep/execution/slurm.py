"""A sweep's populations on a SLURM cluster: a job array, submitted through submitit, with one task per population.

A task that is preempted or reaches its time limit writes a checkpoint after the epoch, is requeued and resumes from
it; one that scancel ends writes the checkpoint only. The submitting process may end at any time: the store records the
state of each run and, in ``submitted.json``, its task. Whether that task is alive is known from squeue, by its id and
the unique name of its submission. Each submission is recorded in the store before sbatch is called. A later call of
the same sweep submits only what is missing.
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
from itertools import chain, count
from pathlib import Path
from typing import Any

from rich.console import Console

from equisep.config import ConfigError
from equisep.execution.job import Job
from equisep.execution.progress import print_line
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

# Timeouts after which submitit stops requeueing a task; each means progress of a whole time limit.
MAX_TIMEOUTS = 1000
# Tasks per array; SLURM's default limit, MaxArraySize, is 1,001.
MAX_ARRAY_TASKS = 1000
# How long a file system may take to show what a task on another node has written.
FILE_SYSTEM_DELAY_S = 60.0
# How long a running sbatch may take to submit its array.
SUBMISSION_TIMEOUT_S = 600.0


def run_in_process(
    populations: Sequence[Sequence[Job]], end: ReportEnd, console: Console, *, resources: Resources
) -> None:
    """Run the populations as submitit tasks in this process, one after another, without SLURM."""
    import submitit

    for index, population in enumerate(populations):
        results = Path(population[0].config.results).resolve()
        (results / "slurm").mkdir(parents=True, exist_ok=True)
        task = submitit.DebugExecutor(results / "slurm/%j").submit(_task_of(population, resources))
        # The debug executor runs the task in this call.
        error = task.exception()
        if isinstance(error, Stopped):
            raise KeyboardInterrupt
        if error is not None and not isinstance(error, Exception):
            raise error
        end(index, error or [job.outcome(None) for job in population])
    if populations:
        print_line(console, f"ran {len(populations)} tasks in this process")


def run_on_cluster(
    populations: Sequence[Sequence[Job]], end: ReportEnd, console: Console, *, resources: Resources, wait: bool
) -> None:
    """Submit the populations that are not submitted yet, and report each when it ends.

    wait: return after all tasks have ended; otherwise report the state of each immediately. Tasks keep running after
    Ctrl-C. Raises ConfigError if they cannot be submitted.
    """
    if not populations:
        return
    if shutil.which("sbatch") is None:
        remedy = "run this on a login node of the cluster, or set hydra/launcher=debug"
        raise ConfigError(f"hydra/launcher=slurm: no sbatch on this machine; {remedy}")
    for job in chain.from_iterable(populations):
        refuse_idle_or_missing(job.config, resources)
    results = Path(populations[0][0].config.results).resolve()
    (results / "slurm").mkdir(parents=True, exist_ok=True)
    with _submission_lock(results, console):
        tasks, others = _submit(populations, resources, results, console)
    waiting = dict(enumerate(populations))
    ended_at: dict[int, float] = {}
    try:
        while waiting:
            queue = queued_jobs()
            for index, population in list(waiting.items()):
                submitted = [job for job in population if job in tasks]
                # Without an answer from the queue, a task counts as running.
                if wait and any(queue is None or is_queued(tasks[job], queue) for job in submitted):
                    continue
                outcomes = {job: outcome_of_task(job.run, job.config, tasks[job], queue, results) for job in submitted}
                lost = any(
                    isinstance(outcome, Exception) and not _reported_failure(tasks[job], results)
                    for job, outcome in outcomes.items()
                )
                if lost and time.monotonic() - ended_at.setdefault(index, time.monotonic()) < FILE_SYSTEM_DELAY_S:
                    continue
                del waiting[index]
                ended = [outcomes[job] if job in outcomes else others[job] for job in population]
                end(index, ended)
                for outcome in ended if wait else ():
                    if isinstance(outcome, Outcome):
                        print_line(console, str(outcome))
            if waiting:
                time.sleep(POLL_INTERVAL_S)
    except KeyboardInterrupt:
        print_line(console, "the tasks keep running; run the same command again to follow, or end them with scancel")
        raise


def _reported_failure(task: Submitted, results: Path) -> bool:
    """Return whether a task has itself written that it failed, so that no later file of it needs to be waited for."""
    from submitit.core.utils import JobPaths, pickle_load

    result = JobPaths(results / "slurm" / task.submission, job_id=task.task).result_pickle
    return result.exists() and bool(pickle_load(result)[0] == "error")


def _submission_lock(results: Path, console: Console) -> ExitStack:
    """Hold the store's submissions, so that a sweep started at the same time sees what this one has submitted."""
    for attempt in count():
        lock = ExitStack()
        try:
            lock.enter_context(held(results / "slurm/submitting.json", "the store's queue"))
            break
        except InUse as error:
            if attempt == 0:
                print_line(console, f"waiting: {error}")
            time.sleep(POLL_INTERVAL_S / 4)
    return lock


def _submit(
    populations: Sequence[Sequence[Job]], resources: Resources, results: Path, console: Console
) -> tuple[dict[Job, Submitted], dict[Job, Result]]:
    """Submit the runs that no task and no other process has, one task per population.

    Returns the task of each job, and the result of each job without a task: it is complete by now, or in use by a
    process outside the queue.
    """
    queue = queued_jobs()
    if queue is None:
        raise ConfigError("hydra/launcher=slurm: squeue does not answer, so queued runs are unknown; try again later")
    recover_orphaned_arrays(results, queue, console)
    tasks: dict[Job, Submitted] = {}
    owners: dict[Job, dict[str, Any]] = {}
    complete: dict[Job, Result] = {}
    for job in chain.from_iterable(populations):
        submitted, owner = job.run.submitted(), job.run.owner()
        # Runs that an earlier call grouped differently stay in its tasks.
        if submitted and is_queued(submitted, queue):
            tasks[job] = submitted
        # An owner whose job has left the queue is about to end; the new task waits for it.
        elif owner and not (queue_knows(owner) and owner["job"] not in queue):
            owners[job] = owner
        elif job.complete:
            # Completed by another call while this one waited for the lock.
            complete[job] = job.outcome()
    if tasks:
        print_line(console, f"{len(tasks)} runs are already queued or running")
    processes = ", ".join(sorted({describe_owner(owner) for owner in owners.values()}))
    reason = f"{len(owners)} runs are in use by {processes} and were not submitted"
    error = InUse(f"{reason}; run the same command again later")
    assigned = tasks.keys() | owners.keys() | complete.keys()
    remaining = [[job for job in population if job not in assigned] for population in populations]
    fresh = [population for population in remaining if population]
    # Each array's runs are marked as submitted before the next array is submitted.
    for start in range(0, len(fresh), MAX_ARRAY_TASKS):
        array = fresh[start : start + MAX_ARRAY_TASKS]
        array_tasks = _submit_array(array, resources, results)
        for population, task in zip(array, array_tasks, strict=True):
            tasks |= dict.fromkeys(population, task)
        summary = f"submitted {sum(map(len, array))} runs as {len(array_tasks)} tasks"
        print_line(console, f"{summary}, the first {array_tasks[0].task}")
    return tasks, complete | dict.fromkeys(owners, error)


def _submit_array(array: Sequence[Sequence[Job]], resources: Resources, results: Path) -> list[Submitted]:
    """Submit populations as one array, record the task of each run, and return the tasks."""
    import submitit

    tasks = [_task_of(population, resources) for population in array]
    for job in chain.from_iterable(array):
        job.create_run()
    name = f"equisep-{uuid.uuid4().hex[:12]}"
    # Created before sbatch: SLURM may start a task immediately, and without a folder for its log it fails silently.
    folder = results / "slurm" / name
    folder.mkdir()
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(**resources.sbatch(name))
    # For recover_orphaned_arrays, if this process is killed before all runs are marked or sbatch's answer is lost.
    intention = results / f"slurm/{name}.json"
    members = [[str(job.run.path.resolve()) for job in population] for population in array]
    write_atomically(intention, json.dumps(members).encode())
    try:
        with _without_sbatch_variables(), executor.batch():
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
def _without_sbatch_variables() -> Iterator[None]:
    """Remove the variables SBATCH_…, which would override the launcher's options, including the job's name."""
    removed = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SBATCH_")}
    try:
        yield
    finally:
        os.environ.update(removed)


def recover_orphaned_arrays(results: Path, queue: dict[str, QueuedTask], console: Console) -> None:
    """Record the tasks of calls that were killed before they had recorded the tasks that they submitted.

    A task whose call was killed before it had written the task's input is ended and leaves the queue.
    """
    from submitit.core.utils import JobPaths

    for intention in sorted((results / "slurm").glob("equisep-*.json")):
        members = json.loads(intention.read_text())
        tasks = {task for task in queue.values() if task.name == intention.stem}
        folder = intention.with_suffix("")
        ready = {task for task in tasks if JobPaths(folder, job_id=task.id).submitted_pickle.exists()}
        for task in ready:
            for member in map(Path, members[int(task.id.partition("_")[2] or 0)]):
                # The run may have been removed since; its task creates it again.
                with suppress(FileNotFoundError):
                    Run(member.parents[1], member.name).mark_submitted(Submitted(task.id, task.name))
        incomplete = sorted(task.id for task in tasks - ready)
        if incomplete:
            print_line(console, f"ended {len(incomplete)} tasks of a call that was killed while it submitted")
            subprocess.run(["scancel", *incomplete], check=False)
        # If none is queued, an sbatch that outlived its call may still be running.
        if tasks or time.time() - intention.stat().st_mtime > SUBMISSION_TIMEOUT_S:
            intention.unlink()


def _task_of(population: Sequence[Job], resources: Resources) -> PopulationTask:
    """Return the task of a population, with absolute paths, since it may start in any folder."""
    configs = []
    for config in (job.config for job in population):
        dataset = replace(config.dataset, root=str(Path(config.dataset.root).resolve()))
        configs.append(replace(config, dataset=dataset, results=str(Path(config.results).resolve())))
    return PopulationTask(configs, resources.gpus)
