"""Populations as SLURM tasks: in this process, and on a real, temporary cluster (``make test-slurm``)."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from equisep.config import Config, ConfigError, compose_config
from equisep.data import Data
from equisep.execution import Resources, prepare
from equisep.execution.slurm_options import refuse_idle_or_missing
from equisep.execution.slurm_task import PopulationTask
from equisep.execution.train import execute
from equisep.store import Run, all_runs, outcome_of_task, queue
from equisep.store.run import Submitted
from equisep.store.status import Outcome, TaskEnded
from tests.conftest import Ended
from tests.processes import start
from tests.slurm_cluster import NoSlurm, throwaway_cluster

DEFAULTS = {"partition": None, "account": None, "qos": None, "gpus": 0, "gpu_memory": None, "cpus": 1, "memory": 1.0}
DEFAULTS |= {"minutes": 10, "parallel": 2, "notice": 30, "modules": [], "setup": [], "options": {}}


def sweep(results: Path, *overrides: str, launcher: str = "slurm") -> list[str]:
    arguments = [f"results={results}", "tracking=off", f"hydra/launcher={launcher}", *overrides]
    if launcher == "slurm":
        arguments += [
            "hydra.launcher.gpus=0",
            "hydra.launcher.cpus=1",
            "hydra.launcher.memory=1",
            "compute.compile=never",
        ]
    return ["-m", *arguments]


def run(words: list[str], environment: Mapping[str, str] | None = None) -> Ended:
    return start(*words, environment=environment).wait(900)


def states(results: Path) -> dict[str, str]:
    return {run.id: run.state()["state"] for run in all_runs(results)}


def test_the_debug_launcher_runs_tasks_without_slurm(
    equisep: Callable[..., Ended], fashion: Data, tmp_path: Path
) -> None:
    command = sweep(tmp_path, "training=smoke", "seed=1,2,3", "hydra.launcher.max_members=2", launcher="debug")
    result = equisep(*command)
    assert result.code == 0, result.err
    assert "ran 2 tasks in this process" in result.err
    # They were not submitted to a queue.
    assert not list(tmp_path.glob("runs/*/submitted.json"))
    assert set(states(tmp_path).values()) == {"done"}
    again = equisep(*command)
    assert (again.code, "3 of 3 runs are already done" in again.err) == (0, True)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"gpus": -1}, "hydra.launcher.gpus=-1: must be at least 0"),
        ({"minutes": 0}, "hydra.launcher.minutes=0: must be at least 1"),
        ({"minutes": "4h"}, "hydra.launcher.minutes=4h: must be an integer"),
        ({"gpus": None}, "hydra.launcher.gpus=None: must be an integer"),
        ({"setup": "ulimit -n 9"}, "hydra.launcher.setup=ulimit -n 9: must be a list"),
        ({"options": None}, "hydra.launcher.options=None: must map names to values"),
        ({"notice": 600}, "hydra.launcher.notice=600: .*600 seconds"),
        ({"gpus": 2}, "hydra.launcher.gpus=2: .*set 1.*hydra.launcher.parallel"),
        ({"gpu_memory": 0}, "hydra.launcher.gpu_memory=0: .*in GB"),
        ({"gpu_memory": "80G"}, "hydra.launcher.gpu_memory=80G: "),
        ({"options": {"time": 5}}, "hydra.launcher.options.time: reserved; set hydra.launcher.minutes instead"),
        ({"options": {"mem_per_gpu": 5}}, "hydra.launcher.options.mem_per_gpu: .*set hydra.launcher.memory "),
        ({"options": {"job_name": "x"}}, "hydra.launcher.options.job_name: reserved; the launcher"),
        ({"options": {"open-mode": "truncate"}}, "hydra.launcher.options.open-mode: reserved"),
        ({"options": {"no_requeue": True}}, "hydra.launcher.options.no_requeue: reserved"),
        ({"options": {"wait": True}}, "hydra.launcher.options.wait: .*set hydra.launcher.wait "),
        ({"options": {"hold": False}}, "hydra.launcher.options.hold=False: .*or true"),
        ({"memory": math.nan}, "hydra.launcher.memory=nan: .*0.1 GB"),
        ({"memory": math.inf}, "hydra.launcher.memory=inf"),
        ({"gpu_memory": math.nan}, "hydra.launcher.gpu_memory=nan"),
        ({"setup": [None]}, r"hydra.launcher.setup=\[None\]: .*text"),
        ({"partition": True}, "hydra.launcher.partition=True: must be a name or null"),
        ({"partition": ["a", "b"]}, "hydra.launcher.partition="),
    ],
)
def test_invalid_resources_are_refused(invalid: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Resources(**(DEFAULTS | invalid))


def test_resources_become_sbatch_options() -> None:
    resources = DEFAULTS | {"partition": "long", "gpus": 1, "modules": ["cuda/12"], "setup": ["ulimit -n 4096"]}
    options = Resources(**(resources | {"options": {"constraint": "a100"}})).sbatch("equisep-1")
    assert options["job_name"] == "equisep-1"
    assert options["additional_parameters"] == {"requeue": True, "constraint": "a100"}
    assert options["partition"] == "long"
    assert (options["time"], options["mem"], options["gpus_per_node"]) == (10, "1024MB", 1)
    assert options["setup"] == ["module load cuda/12", "ulimit -n 4096"]
    assert "account" not in options


def test_without_sbatch_the_error_is_one_line(
    equisep: Callable[..., Ended], tmp_path: Path, fashion: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = equisep(*sweep(tmp_path, "training=smoke", "seed=1"))
    assert result.code == 2
    assert "hydra/launcher=slurm: no sbatch on this machine" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.launcher.max_members=2.5", "hydra.launcher.max_members=2.5: must be an integer"),
        ("hydra.launcher.wait=maybe", "hydra.launcher.wait=maybe: must be true or false"),
    ],
)
def test_fields_of_the_launcher_are_checked_before_work(
    override: str, message: str, equisep: Callable[..., Ended], tmp_path: Path, fashion: Data
) -> None:
    result = equisep(*sweep(tmp_path, "training=smoke", "seed=1"), override)
    assert result.code == 2
    assert message in result.err.splitlines()[-1]
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("override", "resources", "message"),
    [
        ("compute.device=cuda", {}, "compute.device=cuda: .*set hydra.launcher.gpus=1"),
        ("compute.device=cpu", {"gpus": 1}, "hydra.launcher.gpus=1: idle with compute.device=cpu"),
        ("compute.threads=4", {}, "compute.threads=4: .*set hydra.launcher.cpus=4"),
    ],
)
def test_a_task_with_missing_or_idle_resources_is_refused(override: str, resources: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_idle_or_missing(compose_config([override]), Resources(**(DEFAULTS | resources)))


def test_the_reason_for_a_tasks_end_is_read_from_its_log(tmp_path: Path, configure: Callable[..., Config]) -> None:
    job = prepare(configure(), torch.device("cpu"))
    (tmp_path / "slurm/equisep-1").mkdir(parents=True)
    log = tmp_path / "slurm/equisep-1/7_0_0_log.err"
    log.write_bytes(
        b"slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.\nsubmitit WARNING - Bypassing \xff\n"
    )
    outcome = outcome_of_task(job.run, job.config, Submitted("7_0", "equisep-1"), {}, tmp_path)
    assert isinstance(outcome, TaskEnded)
    assert str(log) in str(outcome)
    assert "Detected 1 oom_kill event" in str(outcome)


def test_a_run_that_a_task_trained_is_not_called_untouched(tmp_path: Path, configure: Callable[..., Config]) -> None:
    config = configure("architecture.depth=4")
    (trained,) = execute([config])
    outcome = outcome_of_task(trained.run, config, Submitted("7_0", "equisep-1"), {}, tmp_path)
    assert isinstance(outcome, Outcome)
    assert (outcome.state, outcome.trained_epochs) == ("done", None)
    assert "nothing to train" not in str(outcome)
    assert "nothing to train" in str(execute([config])[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_the_submitting_machine_lacks_is_left_to_the_task(
    equisep: Callable[..., Ended],
    tmp_path: Path,
    fashion: Data,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    command = sweep(tmp_path, "training=smoke", "seed=1")
    result = equisep(*command, "compute.device=cuda:1")
    assert "no sbatch on this machine" in result.err.splitlines()[-1]
    with pytest.raises(SystemExit):
        equisep(*command, "compute.device=warp")
    assert "compute.device=warp: no such device" in capsys.readouterr().err


def test_the_memory_of_a_tasks_gpu_is_the_configured_one() -> None:
    assert Resources(**(DEFAULTS | {"gpus": 1, "gpu_memory": 24})).gpu_bytes() == 24e9
    assert Resources(**(DEFAULTS | {"gpus": 0, "gpu_memory": 24})).gpu_bytes() == math.inf


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_task_that_finds_no_gpu_fails_immediately(tmp_path: Path) -> None:
    task = PopulationTask([compose_config([f"results={tmp_path}"])], gpus=1)
    with pytest.raises(RuntimeError, match="hydra.launcher.gpus=1: .* finds no GPU on "):
        task()
    assert not list(tmp_path.iterdir())


def test_the_debug_launcher_reports_why_a_task_failed(
    equisep: Callable[..., Ended], fashion: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        equisep(*sweep(tmp_path, "training=smoke", "seed=1", "hydra.launcher.gpus=1", launcher="debug"))
    assert ended.value.code != 0
    assert "finds no GPU" in capsys.readouterr().err


def run_task(overrides: list[str]) -> None:
    PopulationTask([compose_config(overrides)], gpus=0)()


def test_a_task_that_waits_for_another_process_stops_on_notice(fashion: Data, tmp_path: Path) -> None:
    overrides = [f"results={tmp_path}", "tracking=off", "training=smoke"]
    job = prepare(compose_config(overrides))
    job.create_run()
    with job.run.held():
        task = start(*overrides, target=run_task, environment=os.environ | {"PYTHONUNBUFFERED": "1"})
        assert task.line().startswith(f"waiting: run {job.run.id} is in use by process {os.getpid()} on ")
        # Without SLURM it cannot be requeued, and ends.
        task.signal(signal.SIGUSR2)
        ended = task.wait()
        assert "InUse: " in ended.err
        assert ended.code == 1
    assert job.run.state()["state"] == "new"


# The rest needs SLURM.

Environment = Mapping[str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    try:
        with throwaway_cluster(tmp_path_factory.mktemp("slurm")) as environment:
            yield os.environ | environment
    except NoSlurm as error:
        pytest.skip(str(error))


def wait_for(ready: Callable[[], bool], what: str, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


def training(results: Path, epochs: int) -> list[Run]:
    """Return the first members of the populations that a living process has trained for more than these epochs."""
    leaders = [one for one in all_runs(results) if one.owner() and one.state().get("population", [""])[0] == one.id]
    return [one for one in leaders if len(one.epochs()) > epochs]


def task_of(run: Run) -> str:
    submitted = run.submitted()
    assert submitted is not None
    return submitted.task


def tasks(results: Path) -> set[str]:
    return {path.name for path in results.glob("slurm/*/*_submitted.pkl")}


@pytest.mark.slurm
def test_preempted_killed_requeued_and_timed_out_tasks_end_bit_for_bit_as_undisturbed_ones(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    network = [
        "architecture.depth=4",
        "training=short",
        "training.snapshots=[]",
        "compute.engine=batched",
        "compute.checkpoint_every=40",
        "compute.checkpoint_seconds=0",
    ]
    # SLURM counts limits in minutes: only the population that meets its own has to train for so long.
    sweeps = (
        [*network, "training.epochs=1000", "seed=range(1,5)"],
        [*network, "training.epochs=400", "seed=range(5,17)", "hydra.launcher.max_members=4"],
    )
    store = tmp_path / "disturbed"
    long, short = (sweep(store, *one, "hydra.launcher.minutes=15", "hydra.launcher.notice=30") for one in sweeps)
    seen: list[str] = []

    def next_population() -> Run:
        """Wait until a population that was not seen before has trained for more than 100 epochs."""
        wait_for(lambda: any(one.id not in seen for one in training(store, 100)), "another population in training")
        (run,) = [one for one in training(store, 100) if one.id not in seen]
        seen.append(run.id)
        return run

    limited = start(*long, environment=cluster)
    timed_out = next_population()
    # SLURM may give notice of a limit up to a minute early.
    subprocess.run(["scontrol", "update", f"JobId={task_of(timed_out)}", "TimeLimit=1"], env=cluster, check=True)
    first = start(*short, environment=cluster)
    preempted = next_population()
    # scancel may retry for minutes although the signal has arrived.
    subprocess.Popen(["timeout", "3", "scancel", "--signal=USR2", task_of(preempted)], env=cluster)
    killed = next_population()
    owner = killed.owner()
    assert owner is not None
    os.kill(int(owner["process"]), signal.SIGKILL)
    requeued = next_population()
    subprocess.run(["scontrol", "requeue", task_of(requeued)], env=cluster, check=True)
    # Once is enough.
    wait_for(lambda: "interrupted: " in timed_out.path.joinpath("run.log").read_text(), "the notice of the limit")
    subprocess.run(["scontrol", "update", f"JobId={task_of(timed_out)}", "TimeLimit=15"], env=cluster, check=True)
    assert limited.wait(900).code == 0
    ended = first.wait(900)
    assert ended.code != 0
    assert re.search(r"task \d+_\d ended before its runs", ended.err)
    # Only the killed population is unfinished.
    assert [one.id for one in all_runs(store) if not one.finished] == sorted(killed.state()["population"])
    second = run(short, cluster)
    assert second.code == 0, second.err
    assert "submitted 4 runs as 1 tasks" in second.err
    assert set(states(store).values()) == {"done"}
    calm = ["hydra.launcher.processes=1", "compute.compile=never"]
    undisturbed = [start(*sweep(tmp_path / "calm", *one, *calm, launcher="population")) for one in sweeps]
    for process in undisturbed:
        done = process.wait(900)
        assert done.code == 0, done.err
    for one in all_runs(store):
        other = Run(tmp_path / "calm", one.id)
        assert one.state()["population"] == other.state()["population"]
        last = other.snapshot_epochs()[-1]
        expected = other.load_snapshot(last)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in one.load_snapshot(last).items())
        assert one.epochs() == other.epochs()
        assert one.load_measures() == other.load_measures()
        assert one.path.joinpath("run.log").read_text().count(" starts,") == 1
    for one in (preempted, killed, requeued, timed_out):
        assert " resumed after epoch " in one.path.joinpath("run.log").read_text()


@pytest.mark.slurm
def test_two_concurrent_sweeps_submit_each_run_once_and_tasks_outlive_their_sweep(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    network = ["architecture.depth=4", "training=short", "training.epochs=800", "seed=range(1,5)"]
    network.append("compute.engine=batched")
    command = sweep(tmp_path, *network, "hydra.launcher.max_members=2")
    both = [start(*command, environment=cluster) for _ in range(2)]
    wait_for(lambda: len(training(tmp_path, 20)) == 2, "both populations in training")
    both[0].signal(signal.SIGKILL, group=True)
    status = run(["status", f"results={tmp_path}"], cluster)
    assert len(re.findall(r"running, task \d+_\d running", status.out)) == 4
    assert both[1].wait(300).code == 0
    assert set(states(tmp_path).values()) == {"done"}
    assert len(tasks(tmp_path)) == 2
    # Other populations of the same runs are done as well.
    third = run([*command, "hydra.launcher.max_members=3"], cluster)
    assert "4 of 4 runs are already done" in third.err
    assert len(tasks(tmp_path)) == 2


@pytest.mark.slurm
def test_a_cancelled_task_is_not_requeued_and_the_next_call_resumes_it(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    """A task trains two runs natively, one after the other; the first is cancelled in training."""
    network = ["architecture.depth=4", "training=short", "training.epochs=4000", "seed=1,2"]
    command = sweep(tmp_path, *network)
    submitted = run([*command, "hydra.launcher.wait=false"], cluster)
    assert submitted.code == 0, submitted.err
    wait_for(lambda: len(training(tmp_path, 20)) == 1, "the first run in training")
    (leader,) = training(tmp_path, 20)
    subprocess.run(["scancel", task_of(leader)], env=cluster, check=True)
    listed = ["squeue", "-h", "-j", task_of(leader)]
    # A task counts as queued until SLURM has cleaned up after it.
    wait_for(lambda: not subprocess.run(listed, env=cluster, capture_output=True).stdout, "the end of the task")
    assert leader.owner() is None
    assert leader.state()["state"] == "interrupted"
    trained = len(leader.epochs())
    again = run(command, cluster)
    assert again.code == 0, again.err
    assert set(states(tmp_path).values()) == {"done"}
    (epoch,) = re.findall(r"resumed after epoch (\d+)", leader.path.joinpath("run.log").read_text())
    # The task had time for a checkpoint of its last epoch.
    assert int(epoch) == trained


@pytest.mark.slurm
def test_a_gpu_that_torch_does_not_find_is_reported_by_the_sweep(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    command = [*sweep(tmp_path, "training=smoke", "seed=1"), "hydra.launcher.gpus=1"]
    result = run(command, cluster)
    assert result.code != 0
    assert "finds no GPU" in result.err
    assert json.loads((next(all_runs(tmp_path)).path / "submitted.json").read_text())["task"]


@pytest.mark.slurm
def test_a_call_killed_after_sbatch_leaves_no_task_and_no_run_is_trained_twice(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = sweep(store, "architecture.depth=4", "training=smoke", "seed=range(1,5)", "hydra.launcher.max_members=2")
    # One run is done before; three remain, in populations of two and one.
    calm = sweep(
        store, "architecture.depth=4", "training=smoke", "seed=1", "compute.compile=never", launcher="population"
    )
    assert run(calm, cluster).code == 0
    programs = tmp_path / "programs"
    programs.mkdir()
    real = shutil.which("sbatch", path=cluster["PATH"])
    (programs / "sbatch").write_text(f'#!/bin/sh\n{real} --hold "$@"\nkill -9 $PPID\n')
    (programs / "sbatch").chmod(0o755)
    killed = run(command, {**cluster, "PATH": f"{programs}:{cluster['PATH']}"})
    assert killed.code == -signal.SIGKILL
    assert len(list(store.glob("slurm/equisep-*.json"))) == 1
    assert not list(store.glob("runs/*/submitted.json"))
    result = run(command, cluster)
    assert result.code == 0, result.err
    assert "ended 2 tasks of a call that was killed while it submitted" in result.err
    assert "submitted 3 runs as 2 tasks" in result.err
    assert set(states(store).values()) == {"done"}
    assert [one.path.joinpath("run.log").read_text().count(" starts,") for one in all_runs(store)] == [1] * 4
    assert not list(store.glob("slurm/equisep-*.json"))


@pytest.mark.slurm
def test_a_slow_sbatch_and_the_users_sbatch_variables_do_no_harm(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    """Tasks may start before sbatch has answered, and SBATCH_JOB_NAME would override their job's name."""
    programs = tmp_path / "programs"
    programs.mkdir()
    real = shutil.which("sbatch", path=cluster["PATH"])
    (programs / "sbatch").write_text(f'#!/bin/sh\n{real} "$@"\ncode=$?\nsleep 3\nexit $code\n')
    (programs / "sbatch").chmod(0o755)
    environment = {
        **cluster,
        "PATH": f"{programs}:{cluster['PATH']}",
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_TIMELIMIT": "0",
    }
    store = tmp_path / "store"
    command = sweep(store, "architecture.depth=4", "training=smoke", "seed=1,2", "hydra.launcher.max_members=1")
    result = run(command, environment)
    assert result.code == 0, result.err
    assert "submitted 2 runs as 2 tasks" in result.err
    assert set(states(store).values()) == {"done"}
    # The name of the cluster is known outside its jobs too.
    printed = start(environment=cluster, target=print_own_cluster).wait()
    configured = subprocess.run(["scontrol", "show", "config"], env=cluster, capture_output=True, text=True).stdout
    assert re.search(rf"ClusterName\s*= {printed.out.strip()}$", configured, flags=re.MULTILINE)


def print_own_cluster(words: list[str]) -> None:
    print(queue.own_cluster())


@pytest.mark.slurm
def test_unrecorded_tasks_are_recovered_and_runs_in_use_are_not_submitted(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    command = [*sweep(tmp_path, "architecture.depth=4", "training=smoke", "hydra.launcher.max_members=1"), "seed=1,2"]
    command += ["hydra.launcher.wait=false", "+hydra.launcher.options.hold=true"]
    first = run(command, cluster)
    assert "submitted 2 runs as 2 tasks" in first.err, first.err
    runs = list(all_runs(tmp_path))
    submissions = {one.id: one.submitted() for one in runs}
    # The state after a kill between sbatch and the recording of the tasks.
    by_task = sorted((task_of(one), str(one.path)) for one in runs)
    (name,) = {submitted.submission for submitted in submissions.values() if submitted}
    intention = tmp_path / f"slurm/{name}.json"
    intention.write_text(json.dumps([[member] for _, member in by_task]))
    for one in runs:
        (one.path / "submitted.json").unlink()
    again = run(command, cluster)
    assert again.code == 0, again.err
    assert "2 runs are already queued or running" in again.err
    assert "submitted" not in again.err
    assert {one.id: one.submitted() for one in runs} == submissions
    assert not intention.exists()
    for task, _ in by_task:
        subprocess.run(["scancel", task], env=cluster, check=True)
    with runs[0].held():
        result = run(command, cluster)
    assert result.code != 0
    assert f"1 runs are in use by process {os.getpid()} on " in result.err
    assert "submitted 1 runs as 1 tasks" in result.err
    subprocess.run(["scancel", task_of(runs[1])], env=cluster, check=True)


@pytest.mark.slurm
def test_a_task_that_measures_finished_runs_is_requeued_on_notice(
    cluster: Environment, fashion: Data, tmp_path: Path
) -> None:
    network = ["architecture.depth=4", "training=smoke", "training.epochs=60", "seed=range(1,11)"]
    network += ["training.snapshots=[" + ",".join(map(str, range(61))) + "]"]
    trained = run(sweep(tmp_path, *network, "measure.epochs=[0]", launcher="population"), cluster)
    assert trained.code == 0, trained.err
    command = sweep(tmp_path, *network)
    waiting = start(*command, environment=cluster)

    def measured() -> list[int]:
        """Return each run's number of records of the second measure, or of the first without it."""
        return [max(map(len, (m.records for m in one.load_measures().values()))) for one in all_runs(tmp_path)]

    wait_for(lambda: max(measured()) > 3, "the first measures")
    (task,) = {task_of(one) for one in all_runs(tmp_path)}
    subprocess.Popen(["timeout", "3", "scancel", "--signal=USR2", task], env=cluster)
    result = waiting.wait(400)
    assert result.code == 0, result.err
    (log,) = tmp_path.glob("slurm/*/*_log.err")
    assert log.read_text().count("this job is preempted") == 1
    assert set(measured()) == {62}
    assert all(one.path.joinpath("run.log").read_text().count(" starts,") == 1 for one in all_runs(tmp_path))
