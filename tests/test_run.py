"""Runs as their users meet them: done ones cost nothing, killed ones go on, bad ones are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from equisep.data import Data
from equisep.run import execute, final_record
from equisep.runs import Run, all_runs, run_id, status_table
from equisep.schema import Config, ConfigError

Configure = Callable[..., Config]
QUIET = Console(quiet=True)


def only_run(results: Path) -> Run:
    (run,) = all_runs(results)
    return run


def test_a_run_leaves_all_its_records(configure: Configure, tmp_path: Path, fashion: Data) -> None:
    config = configure("training.epochs=12")
    outcome = execute(config, QUIET)
    run = only_run(tmp_path)
    assert (outcome.state, outcome.trained_epochs, outcome.run.id) == ("done", 12, run.id)
    assert run.id == run_id(config, fashion.train.digest())
    assert run.snapshot_epochs() == [0, 10, 12]
    assert [epoch.epoch for epoch in run.epochs()] == list(range(1, 13))
    assert run.epochs()[1].loss == pytest.approx(1.2666, abs=1e-3)
    records = run.load_measure(config.measure)
    assert [(record.epoch, record.split) for record in records] == [
        (0, "train"),
        (10, "train"),
        (12, "test"),
        (12, "train"),
    ]
    assert records[-1].fuzziness[0] == pytest.approx(36.8143, rel=1e-5)
    assert records[-1].layers[0] == "input"
    assert len(records[-1].fuzziness) == len(records[-1].rank) == 8
    assert records[-1].accuracy > records[0].accuracy
    assert outcome.final == final_record(run, config) == records[-1]
    state = run.state()
    assert {"processor", "torch", "commit", "threads"} <= set(state["machine"])
    assert state["seconds"] > 0
    assert not (run.path / "checkpoint.pt").exists()
    assert not list(run.path.rglob("*.part"))


def test_a_done_run_is_not_trained_again_and_another_measure_only_measures(configure: Configure) -> None:
    first = execute(configure(), QUIET)
    before = {path: path.stat().st_mtime_ns for path in first.run.path.rglob("*") if path.is_file()}
    again = execute(configure("compute.threads=2", "training.snapshots=[0]"), QUIET)
    assert (again.run.id, again.trained_epochs) == (first.run.id, 0)
    assert before == {path: path.stat().st_mtime_ns for path in first.run.path.rglob("*") if path.is_file()}
    running = execute(configure("measure.batch_norm=running"), QUIET)
    assert (running.run.id, running.trained_epochs) == (first.run.id, 0)
    assert running.final is not None
    assert first.final is not None
    assert running.final.fuzziness[1] != first.final.fuzziness[1]
    assert len(list(first.run.path.glob("measures/*.json"))) == 2


def test_seed_moves_the_run_but_not_the_subset(configure: Configure) -> None:
    one, other = (execute(configure(f"seed={seed}"), QUIET) for seed in (1, 2))
    assert one.final is not None
    assert other.final is not None
    assert one.final.fuzziness[0] == other.final.fuzziness[0]
    assert one.final.fuzziness[1] != other.final.fuzziness[1]


def command(results: Path, *overrides: str) -> list[str]:
    fixed = [f"results={results}", "tracking=off", "training=smoke", "training.epochs=30", "compute.checkpoint_every=4"]
    return [sys.executable, "-m", "equisep", *fixed, *overrides]


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_killed_run_goes_on_and_ends_bit_for_bit_where_it_would_have(tmp_path: Path, optimizer: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole, f"optimizer={optimizer}"), check=True, capture_output=True)
    process = subprocess.Popen(
        command(killed, f"optimizer={optimizer}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    metrics = killed / "runs" / only_run(whole).id / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 10):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with metrics.open("a") as file:
        file.write('{"epoch": 99, "lo')
    assert only_run(killed).state()["state"] == "interrupted"
    assert status_table(killed)["state"].tolist() == ["interrupted"]
    subprocess.run(command(killed, f"optimizer={optimizer}"), check=True, capture_output=True)
    expected, resumed = only_run(whole), only_run(killed)
    assert resumed.state()["state"] == "done"
    assert (expected.path / "metrics.jsonl").read_bytes() == metrics.read_bytes()
    for epoch in expected.snapshot_epochs():
        before, after = expected.load_snapshot(epoch), resumed.load_snapshot(epoch)
        assert all(torch.equal(before[name], after[name]) for name in before)
    measures = [next(run.path.glob("measures/*.json")).read_bytes() for run in (expected, resumed)]
    assert measures[0] == measures[1]


def test_a_diverging_run_is_a_result(configure: Configure, tmp_path: Path) -> None:
    outcome = execute(configure("optimizer=sgd", "optimizer.learning_rate=1e30"), QUIET)
    assert outcome.state == "diverged"
    assert status_table(tmp_path)["state"].tolist() == ["diverged"]
    assert execute(configure("optimizer=sgd", "optimizer.learning_rate=1e30"), QUIET).trained_epochs == 0


def test_a_run_that_another_process_trains_is_left_alone(configure: Configure, fashion: Data, tmp_path: Path) -> None:
    config = configure()
    run = Run(tmp_path, run_id(config, fashion.train.digest()))
    run.create(config, fashion.train.digest(), "")
    run.write_state("running")
    with pytest.raises(ConfigError, match="is being trained by"):
        execute(config, QUIET)


def test_what_cannot_be_run_is_refused_before_work(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"measure.epochs=\[1\]: training.snapshots keeps the epochs \[0, 2\]"):
        execute(configure("measure.epochs=[1]"), QUIET)
    with pytest.raises(ConfigError, match="compute.device=warp"):
        execute(configure("compute.device=warp"), QUIET)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="compute.device=cuda: not on this machine"):
            execute(configure("compute.device=cuda"), QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_failing_run_is_recorded_with_its_error(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Run, "append_epoch", fail)
    with pytest.raises(OSError, match="disk is full"):
        execute(configure(), QUIET)
    monkeypatch.undo()
    (run,) = all_runs(Path(configure().results))
    assert run.state()["state"] == "failed"
    assert run.state()["error"] == "OSError: disk is full"
    outcome = execute(configure(), QUIET)
    assert outcome.state == "done"
    assert "error" not in json.loads((run.path / "state.json").read_text())
