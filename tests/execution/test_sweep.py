"""Sweeps as populations: grouping, finished runs, and the state after a failure, Ctrl-C or a kill."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from equisep import load_runs
from equisep.config import Config, compose_sweep
from equisep.execution import Job, Request, prepare, run_sweep
from equisep.execution.planning import members_that_fit, operations_of, plan
from equisep.execution.progress import Observer
from equisep.execution.train import Stopped, execute
from equisep.execution.workers import Result, gpu_of_worker
from equisep.store import HOW_TO_RESUME, DamagedRun, Outcome, Run, all_runs, status_table
from equisep.training import Kernels, why_not_native
from tests.conftest import Ended
from tests.processes import Started, start

Configure = Callable[..., Config]
# Runs that train together in one program, as on a GPU.
BATCHED = "compute.engine=batched"
needs_native = pytest.mark.skipif(bool(why_not_native(Kernels.FEED_FORWARD)), reason="no native engine")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def jobs_of(configure: Configure, *sweeps: list[str]) -> list[Job]:
    return [prepare(configure(*overrides)) for overrides in sweeps]


def test_jobs_of_equal_shape_and_schedule_are_grouped_and_split_evenly(configure: Configure) -> None:
    seeds = [[f"seed={seed}"] for seed in range(7)]
    shallow = [["architecture.depth=4", f"seed={seed}", "optimizer=sgd"] for seed in range(3)]
    longer = [["training.epochs=3"]]
    populations = plan(jobs_of(configure, *seeds, *shallow, *longer), max_members=4, processes=2)
    assert sorted(len(population) for population in populations) == [1, 3, 3, 4]
    for population in populations:
        assert len({job.config.architecture.depth for job in population}) == 1  # type: ignore[attr-defined]
        assert len({job.config.training.epochs for job in population}) == 1
    work = [operations_of(population) for population in populations]
    assert work == sorted(work, reverse=True)


def test_networks_with_convolutions_train_alone(configure: Configure) -> None:
    small = ["architecture=resnet_two_layer", "optimizer.learning_rate=1e-3"]
    populations = plan(
        jobs_of(configure, *([*small, f"seed={seed}"] for seed in range(3))), max_members=10, processes=2
    )
    assert [len(population) for population in populations] == [1, 1, 1]


def test_members_may_differ_in_optimizer_seed_and_subset_and_are_sorted_by_optimizer(configure: Configure) -> None:
    overrides = [["optimizer=adam", "seed=1"], ["optimizer=sgd"], ["optimizer=adam", "seed=2", "dataset.subset_seed=1"]]
    (population,) = plan(jobs_of(configure, *overrides), max_members=10, processes=2)
    assert [job.config.optimizer.kind for job in population] == ["adam", "adam", "sgd"]


def test_one_large_group_is_split_for_idle_processes(configure: Configure) -> None:
    overrides = [["training.epochs=6000", f"seed={seed}"] for seed in range(6)]
    assert [len(population) for population in plan(jobs_of(configure, *overrides), max_members=10, processes=2)] == [
        3,
        3,
    ]


def test_finished_runs_are_not_planned(configure: Configure) -> None:
    execute([configure("seed=1")])
    populations = plan(jobs_of(configure, ["seed=1"], ["seed=2"]), max_members=10, processes=1)
    assert [[job.config.seed for job in population] for population in populations] == [[2]]


def requests_of(tmp_path: Path, *sweeps: str) -> list[Request]:
    fixed = [f"results={tmp_path}", "tracking=off", "training=smoke"]
    configs = compose_sweep([[*fixed, *overrides.split()] for overrides in sweeps])
    return [Request(overrides, config) for overrides, config in zip(sweeps, configs, strict=True)]


def facts_of(result: Result) -> dict[str, object]:
    assert isinstance(result, Outcome)
    return result.facts()


def test_failures_are_reported_immediately_and_do_not_stop_others(tmp_path: Path) -> None:
    text = StringIO()
    requests = requests_of(tmp_path, "seed=1", "architecture.depth=12", "seed=2", "seed=1")
    requests += requests_of(tmp_path, "dataset.per_class=1000000")
    results = run_sweep(requests, max_members=10, processes=1, console=Console(file=text, width=200))
    assert [isinstance(result, Exception) for result in results] == [False, True, False, False, True]
    assert facts_of(results[0]) == facts_of(results[3])
    assert facts_of(results[0])["state"] == facts_of(results[2])["state"] == "done"
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("failed: architecture.depth=12: architecture.depth=12: no rate")
    assert lines[-1] == "2 of 5 jobs failed: architecture.depth=12; dataset.per_class=1000000"


def files_of(store: Path) -> dict[str, bytes]:
    """Return what a store recorded of its runs, without times and process numbers."""
    patterns = ("metrics.jsonl", "snapshots/*.safetensors", "measures/*.json")
    paths = [path for pattern in patterns for path in store.glob(f"runs/*/{pattern}")]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


@needs_native
def test_a_run_is_the_same_alone_in_a_sweep_in_workers_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of native runs; those of a population are the same in a process and in workers."""
    native = [f"architecture.depth={depth} seed=1" for depth in (4, 8)]
    together = [f"{BATCHED} architecture.depth=4 seed={seed}" for seed in (2, 3)]
    quiet = Console(quiet=True)
    (alone,) = run_sweep(requests_of(tmp_path / "alone", native[1]), max_members=10, processes=1, console=quiet)
    requests = requests_of(tmp_path / "sweep", *native, *together)
    results = run_sweep(requests, max_members=10, processes=1, console=quiet)
    (request,) = requests_of(tmp_path / "interrupted", native[1])
    assert isinstance(request.config, Config)
    with pytest.raises(Stopped):
        execute([request.config], StopAfter(1))
    execute([request.config])
    monkeypatch.setattr("equisep.execution.sweep.MIN_OPERATIONS_FOR_WORKERS", 0)
    requests = requests_of(tmp_path / "workers", *together, *native[::-1])
    others = run_sweep(requests, max_members=2, processes=2, console=quiet)
    assert sorted(map(str, map(facts_of, results))) == sorted(map(str, map(facts_of, others)))
    assert facts_of(results[1]) == facts_of(alone)
    assert files_of(tmp_path / "sweep") == files_of(tmp_path / "workers")
    assert len(files_of(tmp_path / "alone")) == 4
    assert files_of(tmp_path / "alone").items() <= files_of(tmp_path / "sweep").items()
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "interrupted")
    engines = load_runs(tmp_path / "sweep").groupby("engine")["run"].nunique()
    assert engines.to_dict() == {"batched": 2, "native": 2}


@needs_native
def test_a_convolutional_run_is_native_where_it_has_one_core_and_the_same_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "architecture=resnet_two_layer optimizer.learning_rate=1e-3 dataset.per_class=20"
    requests = requests_of(tmp_path / "whole", *(f"{small} compute.{field}" for field in ("threads=1", "threads=2")))
    requests += requests_of(tmp_path / "whole", f"{small} compute.engine=batched seed=2")
    assert [prepare(request.config).native_kernels for request in requests if isinstance(request.config, Config)] == [
        Kernels.CONVOLUTIONS,
        None,
        None,
    ]
    (native,) = map(facts_of, run_sweep(requests[:1], max_members=10, processes=1, console=Console(quiet=True)))
    (request,) = requests_of(tmp_path / "interrupted", f"{small} compute.threads=1")
    assert isinstance(request.config, Config)
    with pytest.raises(Stopped):
        execute([request.config], StopAfter(1))
    # A run is finished by the engine that started it.
    execute([replace(request.config, compute=replace(request.config.compute, engine="batched"))])
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "interrupted")
    assert set(load_runs(tmp_path / "interrupted")["engine"]) == {"native"}
    (module,) = requests_of(tmp_path / "module", f"{small} compute.engine=batched")
    (plain,) = map(facts_of, run_sweep([module], max_members=10, processes=1, console=Console(quiet=True)))
    assert plain["r"] == pytest.approx(native["r"], abs=1e-3)
    assert set(load_runs(tmp_path / "module")["engine"]) == {"autograd"}
    monkeypatch.setattr("equisep.execution.train.why_not_native", lambda kernels: "no C++ compiler (c++)")
    (module,) = requests_of(tmp_path / "other", small)
    run_sweep([module], max_members=10, processes=1, console=Console(quiet=True))
    assert files_of(tmp_path / "other") == files_of(tmp_path / "module")


def test_without_native_kernels_runs_train_as_a_population_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equisep.execution.train.why_not_native", lambda kernels: "no C++ compiler (c++)")
    text = StringIO()
    requests = requests_of(tmp_path, "seed=1", "seed=2", "seed=3 compute.engine=native")
    results = run_sweep(requests, max_members=10, processes=1, console=Console(file=text, width=200))
    assert [isinstance(result, Exception) for result in results] == [False, False, True]
    lines = [line for line in text.getvalue().splitlines() if "C++ compiler" in line]
    assert lines[0].startswith(
        "failed: seed=3 compute.engine=native: compute.engine=native: no C++ compiler (c++); inst"
    )
    assert [line for line in lines if "without the native engine" in line] == lines[1:2]
    assert set(load_runs(tmp_path)["engine"]) == {"batched"}


def test_native_runs_are_units_of_their_own_and_the_longest_come_first(configure: Configure) -> None:
    jobs = jobs_of(configure, *(["seed=1", f"training.epochs={epochs}"] for epochs in (2, 4, 3)), ["seed=2"])
    units = plan(jobs, max_members=10, processes=1, alone=lambda job: job.native_kernels is not None)
    assert [[job.config.training.epochs for job in unit] for unit in units] == [[4], [3], [2], [2]]


def test_one_run_with_two_measures_gives_two_results(tmp_path: Path) -> None:
    requests = requests_of(tmp_path, "measure.batch_norm=batch", "measure.batch_norm=running", "seed=1")
    first, second, other = map(facts_of, run_sweep(requests, max_members=10, processes=1, console=Console(quiet=True)))
    assert first["run"] == second["run"] != other["run"]
    assert first["r"] != second["r"]
    again = run_sweep(requests, max_members=10, processes=1, console=Console(quiet=True))
    assert facts_of(again[1])["r"] == second["r"]


def test_two_stores_in_one_sweep_are_both_filled(tmp_path: Path) -> None:
    requests = [*requests_of(tmp_path / "a", "seed=1"), *requests_of(tmp_path / "b", "seed=1")]
    run_sweep(requests, max_members=10, processes=1, console=Console(quiet=True))
    assert [len(list(all_runs(tmp_path / name))) for name in "ab"] == [1, 1]


def test_a_checkpoint_of_another_population_is_not_used(configure: Configure, tmp_path: Path) -> None:
    """Three runs start and lose their checkpoint; one of them is then trained alone and stopped."""
    configs = [configure("training.epochs=12", BATCHED, f"seed={seed}") for seed in (1, 2, 3)]
    with pytest.raises(Stopped):
        execute(configs, StopAfter(3))
    (tmp_path / "runs" / prepare(configs[0]).run.id / "checkpoint.pt").unlink()
    with pytest.raises(Stopped):
        execute(configs[:1], StopAfter(5))
    outcomes = execute(configs)
    assert [outcome.trained_epochs for outcome in outcomes] == [7, 12, 12]
    assert [outcome.state for outcome in outcomes] == ["done"] * 3


def test_a_removed_member_is_named_with_a_remedy(configure: Configure, tmp_path: Path) -> None:
    configs = [configure("training.epochs=12", BATCHED, f"seed={seed}") for seed in (1, 2)]
    with pytest.raises(Stopped):
        execute(configs, StopAfter(3))
    leader, member = (prepare(config).run for config in configs)
    shutil.rmtree(member.path)
    with pytest.raises(DamagedRun, match=f"run {member.id} .*: remove .*{leader.id}/checkpoint.pt"):
        execute(configs)
    (leader.path / "checkpoint.pt").unlink()
    assert [outcome.trained_epochs for outcome in execute(configs)] == [12, 12]


def test_a_resumed_run_keeps_the_snapshots_it_was_started_with(configure: Configure) -> None:
    with pytest.raises(Stopped):
        execute([configure("training.epochs=12", "training.snapshots=[0,5,9]")], StopAfter(3))
    (outcome,) = execute([configure("training.epochs=12", "training.snapshots=[0]", "measure.epochs=[9,12]")])
    assert outcome.run.snapshot_epochs() == [0, 5, 9, 12]


def test_what_a_process_killed_at_the_very_end_has_left_is_removed(tmp_path: Path) -> None:
    requests = requests_of(tmp_path, "seed=1", "seed=2")
    run_sweep(requests, max_members=10, processes=1, console=Console(quiet=True))
    one, other = all_runs(tmp_path)
    dead = {"host": "elsewhere", "process": 7, "token": "another"}
    for run in (one, other):
        (run.path / "owner.json").write_text(json.dumps(dead))
        os.utime(run.path / "owner.json", (0, 0))
        (run.path / "checkpoint.previous.pt").write_bytes(b"")
    # As if a population of both had lost the second in its last moment.
    (other.path / "state.json").unlink()
    one.write_state("done", population=[one.id, other.id])
    one.remove_leftovers()
    assert (one.path / "checkpoint.previous.pt").exists()
    one.write_state("done", population=[one.id])
    run_sweep(requests[:1], max_members=10, processes=1, console=Console(quiet=True))
    run_sweep(requests[1:], max_members=10, processes=1, console=Console(quiet=True))
    assert not [path for run in (one, other) for path in run.path.glob("owner.json")]
    assert not list(one.path.glob("checkpoint*"))


@needs_native
def test_a_resumed_run_keeps_its_settings_and_says_so(configure: Configure) -> None:
    lines: list[str] = []

    class Listener(Observer):
        def say(self, line: str) -> None:
            lines.append(line)

    with pytest.raises(Stopped):
        execute([configure("training.epochs=6", BATCHED)], StopAfter(3))
    execute([configure("training.epochs=6", "compute.engine=native", "compute.dtype=float64")], Listener())
    assert "resumed as started, with compute.dtype=float32, compute.engine=batched" in lines


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One population's worker is killed during training; both populations are completed."""
    monkeypatch.setattr("equisep.execution.sweep.MIN_OPERATIONS_FOR_WORKERS", 0)
    fixed = "training.epochs=400 training.snapshots=[0] compute.compile=never compute.checkpoint_every=10"
    fixed += " compute.checkpoint_seconds=0"
    requests = requests_of(tmp_path, *(f"{fixed} architecture.depth={depth}" for depth in (4, 8)))
    killed = []

    def kill_one() -> None:
        while not killed:
            for run in all_runs(tmp_path):
                owner = run.owner()
                if owner is not None and (run.path / "metrics.jsonl").exists() and len(run.epochs()) > 20:
                    os.kill(int(owner["process"]), signal.SIGKILL)
                    killed.append(run.id)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    results = run_sweep(requests, max_members=10, processes=2, console=Console(quiet=True))
    killer.join(timeout=10)
    assert killed
    assert [facts_of(result)["state"] for result in results] == ["done", "done"]


class StopAfter(Observer):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def advance(self, epoch: int, loss: float, accuracy: float) -> None:
        self.left -= 1

    def wants_stop(self) -> bool:
        return self.left <= 0


def test_a_stopped_population_is_resumed_whole_and_bit_for_bit(configure: Configure, tmp_path: Path) -> None:
    configs = [
        configure("training.epochs=12", BATCHED, "optimizer=adam", "seed=1"),
        configure("training.epochs=12", BATCHED, "optimizer=sgd", "seed=2"),
        configure("training.epochs=12", BATCHED, "optimizer=sgd", "optimizer.learning_rate=1e30", "seed=3"),
    ]
    whole = {outcome.run.id: outcome.state for outcome in execute(configs)}
    assert sorted(whole.values()) == ["diverged", "done", "done"]
    snapshots = {identity: Run(tmp_path, identity).load_snapshot(12) for identity in whole if whole[identity] == "done"}
    metrics = {identity: (tmp_path / "runs" / identity / "metrics.jsonl").read_bytes() for identity in whole}
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(Stopped, match="after epoch 7"):
        execute(configs, StopAfter(7))
    assert set(status_table(tmp_path)["state"]) == {"interrupted"}
    for log in tmp_path.glob("runs/*/run.log"):
        assert log.read_text().rstrip().endswith("interrupted: after epoch 7")
        assert "Traceback" not in log.read_text()
    # Requesting one member resumes its whole population.
    (outcome,) = execute([configs[1]])
    assert outcome.trained_epochs == 5
    for identity, state in whole.items():
        run = Run(tmp_path, identity)
        assert run.state()["state"] == state
        assert (run.path / "metrics.jsonl").read_bytes() == metrics[identity]
    for identity, weights in snapshots.items():
        assert same(Run(tmp_path, identity).load_snapshot(12), weights)
    (population,) = plan([prepare(config) for config in configs], max_members=1, processes=1) or [[]]
    assert population == []


def sweep_command(results: Path, engine: str) -> list[str]:
    epochs = 2000 if engine == "batched" else 20_000
    overrides = ["-m", "training=smoke", f"training.epochs={epochs}", "training.snapshots=[0]", "seed=1,2,3"]
    fixed = ["tracking=off", f"results={results}", "compute.compile=never", f"compute.engine={engine}"]
    fixed += ["compute.checkpoint_every=2", "compute.checkpoint_seconds=0"]
    return [*overrides, "architecture.depth=4,8", "hydra.launcher.processes=2", *fixed]


def wait_for_training(results: Path, process: Started, runs: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        trained = [len(run.epochs()) for run in all_runs(results)]
        if len(trained) == runs and min(trained) >= 3:
            return
        assert process.alive(), process.wait()
        assert time.monotonic() < deadline, trained
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(("engine", "training"), [("batched", 6), pytest.param("native", 2, marks=needs_native)])
def test_ctrl_c_or_a_kill_stops_the_workers_and_the_sweep_can_be_resumed(
    tmp_path: Path, engine: str, training: int, how: signal.Signals
) -> None:
    """Two workers train two populations of three, or two runs."""
    process = start(*sweep_command(tmp_path, engine))
    wait_for_training(tmp_path, process, training)
    if how is signal.SIGINT:
        process.signal(how, group=True)
        ended = process.wait(60)
        assert ended.code == 130
        assert HOW_TO_RESUME in ended.err
        assert "Traceback" not in ended.err
    else:
        process.signal(how)
        process.wait(60)
    deadline = time.monotonic() + 30
    while any(run.owner() is not None for run in all_runs(tmp_path)):
        assert time.monotonic() < deadline, "a worker outlives its sweep"
        time.sleep(0.1)
    assert set(status_table(tmp_path)["state"]) == {"interrupted"}
    reached = {run.id: len(run.epochs()) for run in all_runs(tmp_path)}
    again = start(*sweep_command(tmp_path, engine))
    deadline = time.monotonic() + 120
    while not all(len(run.epochs()) > reached[run.id] + 3 for run in all_runs(tmp_path)):
        assert again.alive(), again.wait()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again.signal(signal.SIGINT, group=True)
    again.wait(60)
    assert len(list(all_runs(tmp_path))) == training
    assert all("resumed after epoch" in (run.path / "run.log").read_text() for run in all_runs(tmp_path))


def test_hydras_own_launcher_runs_the_same_task(equisep: Callable[..., Ended], tmp_path: Path) -> None:
    overrides = ["-m", "hydra/launcher=basic", "training=smoke", "seed=1,2", "tracking=off", f"results={tmp_path}"]
    done = equisep(*overrides)
    assert done.code == 0, done.err
    assert set(status_table(tmp_path)["state"]) == {"done"}


def test_workers_share_the_gpus_evenly() -> None:
    assert [gpu_of_worker(worker, 2) for worker in range(5)] == [0, 1, 0, 1, 0]
    assert gpu_of_worker(3, 0) is None


def test_a_gpus_free_memory_limits_a_population(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(configure("architecture.depth=3", "architecture.width=10", "optimizer.learning_rate=1e-3"))
    hidden, batch = 10, 128
    parameters = (100 * hidden + hidden) + (hidden**2 + hidden) + (hidden * 10 + 10) + 2 * 2 * hidden
    # Values per image: outputs of Linear, BatchNorm and ReLU, twice, and of the classifier; the image if flattened.
    values = 5 * parameters + 3 * batch * (2 * 3 * hidden + 10)
    assert job.memory - 4 * values in (0, 4 * 3 * batch * 100)
    assert members_that_fit(job) == sys.maxsize
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (11 * job.memory, 11 * job.memory))
    on_gpu = replace(job, device=torch.device("cuda"))
    assert members_that_fit(on_gpu) == 7
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 1))
    assert members_that_fit(on_gpu) == 1
    # The memory of another machine's GPU is given; this machine may have none.
    assert members_that_fit(job, 11 * job.memory) == 7
    assert members_that_fit(job, math.inf) == sys.maxsize
    six = jobs_of(configure, *([f"seed={seed}"] for seed in range(6)))
    assert [len(part) for part in plan(six, max_members=10, processes=1, gpu_memory=6 * six[0].memory)] == [3, 3]
    on_cpu = jobs_of(configure, *([f"seed={seed}", "compute.device=cpu"] for seed in range(6)))
    assert [len(part) for part in plan(on_cpu, max_members=10, processes=1, gpu_memory=6 * six[0].memory)] == [6]


def test_interpolated_seeds_are_composed_per_job(
    equisep: Callable[..., Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", "training=smoke", "tracking=off", f"results={tmp_path}", "architecture.depth=4"]
    assert equisep(*command, "seed=1,2", "dataset.subset_seed=${seed}").code == 0
    subset_seeds = {run.config()["seed"]: run.config()["dataset"]["subset_seed"] for run in all_runs(tmp_path)}
    assert subset_seeds == {1: 1, 2: 2}
    with pytest.raises(SystemExit):
        equisep(*command, "seed=99999999999,3")
    assert "1 of 2 jobs failed: " in capsys.readouterr().err
    assert {run.config()["seed"] for run in all_runs(tmp_path)} == {1, 2, 3}
