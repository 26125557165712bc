"""The command line, as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from equisep.runs import all_runs
from tests.conftest import ROOT


def equisep(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "equisep", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_sweep_then_status_from_any_folder(tmp_path: Path) -> None:
    sweep = equisep("-m", "training=smoke", "optimizer=sgd,adam", "seed=1,2", "tracking=off", folder=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    assert sum(": done, r = " in line for line in sweep.stderr.splitlines()) == 4
    assert len(list(all_runs(tmp_path / "results"))) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    status = equisep("status", folder=tmp_path)
    assert len(status.stdout.splitlines()) == 5
    assert "sgd 0.03" in status.stdout
    again = equisep("-m", "training=smoke", "optimizer=sgd,adam", "seed=1,2", "tracking=off", folder=tmp_path)
    assert "4 of 4 runs are done already" in again.stderr


def test_errors_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    failed = equisep("architecture.depth=12", folder=tmp_path)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 2
    assert failed.stderr.splitlines()[-1].startswith("equisep: architecture.depth=12: no rate")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "results").exists()


def test_a_sweep_with_a_failing_job_does_the_others_and_exits_non_zero(tmp_path: Path) -> None:
    sweep = equisep("-m", "training=smoke", "architecture.depth=12,8", "tracking=off", folder=tmp_path)
    assert sweep.returncode != 0
    assert "1 of 2 jobs failed: training=smoke architecture.depth=12" in sweep.stderr
    assert [run.state()["state"] for run in all_runs(tmp_path / "results")] == ["done"]


def test_an_experiment_without_m_says_so(tmp_path: Path) -> None:
    failed = equisep("experiment=optimizers", folder=tmp_path)
    assert failed.returncode == 2
    assert "it is a sweep, put -m in front of it" in failed.stderr


def test_an_empty_store_has_no_runs(tmp_path: Path) -> None:
    assert equisep("status", folder=tmp_path).stdout == "no runs under results/runs\n"


def test_reproduce_scripts_draw_what_is_there_and_name_what_is_missing(tmp_path: Path) -> None:
    overrides = ["training=smoke", "tracking=off", "seed=1", f"results={tmp_path}"]
    draw = [sys.executable, str(ROOT / "reproduce/optimizers.py"), *overrides]
    empty = subprocess.run(draw, cwd=tmp_path, capture_output=True, text=True)
    assert empty.returncode == 1
    assert "9 of 9 runs are missing: python -m equisep -m experiment=optimizers training=smoke" in empty.stderr
    sweep = equisep("-m", "experiment=optimizers", *overrides, folder=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    drawn = subprocess.run(draw, cwd=tmp_path, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr
    for name in ("figures/optimizers.png", "figures/optimizers.pdf"):
        assert (tmp_path / name).stat().st_size > 10_000
    lines = (tmp_path / "tables/optimizers.csv").read_text().splitlines()
    assert lines[0] == (
        "depth,optimizer,run,seed,r,decay_ratio,half_life,D_first,D_last,train_accuracy,test_accuracy,seconds"
    )
    assert len(lines) == 10
    layers = (tmp_path / "tables/optimizers_layers.csv").read_text().splitlines()
    assert layers[0] == "run,layer,D"
    assert len(layers) == 1 + 3 * (4 + 8 + 20)
