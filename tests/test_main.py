"""The command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from equisep.store import all_runs


def equisep(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "equisep", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_sweep_and_status_work_in_any_folder(tmp_path: Path) -> None:
    sweep = equisep("-m", "training=smoke", "optimizer=sgd,adam", "seed=1,2", "tracking=off", folder=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    assert sum(": done, r = " in line for line in sweep.stderr.splitlines()) == 4
    assert len(list(all_runs(tmp_path / "results"))) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    status = equisep("status", folder=tmp_path)
    assert len(status.stdout.splitlines()) == 5
    assert "sgd 0.03" in status.stdout
    again = equisep("-m", "training=smoke", "optimizer=sgd,adam", "seed=1,2", "tracking=off", folder=tmp_path)
    assert "4 of 4 runs are already done" in again.stderr


def test_errors_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    failed = equisep("architecture.depth=12", folder=tmp_path)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 2
    assert failed.stderr.splitlines()[-1].startswith("equisep: architecture.depth=12: no rate")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "results").exists()


def test_a_sweep_with_a_failing_job_runs_the_others_and_exits_non_zero(tmp_path: Path) -> None:
    sweep = equisep("-m", "training=smoke", "architecture.depth=12,8", "tracking=off", folder=tmp_path)
    assert sweep.returncode != 0
    assert "1 of 2 jobs failed: training=smoke architecture.depth=12" in sweep.stderr
    assert [run.state()["state"] for run in all_runs(tmp_path / "results")] == ["done"]


def test_an_experiment_without_m_is_refused(tmp_path: Path) -> None:
    failed = equisep("experiment=optimizers", folder=tmp_path)
    assert failed.returncode == 2
    assert "experiment=optimizers: is a sweep; add -m" in failed.stderr


def test_an_empty_store_has_no_runs(tmp_path: Path) -> None:
    assert equisep("status", folder=tmp_path).stdout == "no runs under results/runs\n"
