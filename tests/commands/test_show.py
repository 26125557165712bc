"""equisep show: the law of one run in the terminal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from equisep.config import measure_id
from equisep.store import all_runs, find_run
from tests.conftest import Config, Ended, run_one

Command = Callable[..., Ended]


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained store, into which figures may be drawn."""
    return shutil.copytree(trained, tmp_path / "store")


def test_the_law_of_a_run_is_shown_and_drawn(equisep: Command, store: Path) -> None:
    run = next(all_runs(store))
    (measurement,) = run.load_measures().values()
    train, test = (
        next(record for record in measurement.records if (record.epoch, record.split) == (2, split))
        for split in ("train", "test")
    )
    shown = equisep("show", run.id, f"results={store}")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"run {run.id}: fnn depth 8 width 100, fashion_mnist 10, ")
    assert lines[0].endswith("; done, epoch 2 of 2")
    rows = [line.split() for line in lines if re.match(r" +\d ", line)]
    assert [row[1] for row in rows] == list(train.layers)
    assert [float(row[2]) for row in rows] == pytest.approx(train.fuzziness, rel=1e-3)
    ratios = [after / before for before, after in zip(train.fuzziness, train.fuzziness[1:], strict=False)]
    assert [float(row[3]) for row in rows[1:]] == pytest.approx(ratios, rel=1e-3)
    assert [int(row[-1]) for row in rows] == list(train.rank)
    law = train.law()
    assert law is not None
    for word in (
        f"r = {law.pearson_r:.4f}",
        f"ρ = {law.decay_ratio:.4f}",
        f"half-life {law.half_life:.2f} layers",
        f"residual {law.relative_residual:.3f}",
        f"curvature {law.relative_curvature:.3f}",
        f"training accuracy {train.accuracy:.4f}",
        f"test accuracy {test.accuracy:.4f}",
    ):
        assert word in shown.out
    figure = Path(lines[-1].removeprefix("figure: "))
    assert figure == run.path / "law.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_each_measured_epoch_and_the_test_set_can_be_chosen(equisep: Command, store: Path) -> None:
    last = equisep("show", "last", f"results={store}")
    first = equisep("show", "last", f"results={store}", "--epoch", "0")
    assert "train set, epoch 0; measured: [0, 2]" in first.out
    assert first.out.splitlines()[-1].endswith("/law_train_epoch_0000.png")
    assert first.out.splitlines()[3:-1] != last.out.splitlines()[3:-1]
    test = equisep("show", "last", f"results={store}", "--split", "test")
    assert test.out.splitlines()[-1].endswith("/law_test_epoch_0002.png")
    wrong = equisep("show", "last", f"results={store}", "--epoch", "7")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err == "equisep: --epoch 7: not measured on the train set; choose one of 0, 2\n"


def test_every_measure_of_a_run_is_shown_and_drawn(
    equisep: Command, configure: Callable[..., Config], tmp_path: Path
) -> None:
    run = run_one(configure()).run
    config = configure("measure.batch_norm=running")
    run_one(config)
    shown = equisep("show", "last", f"results={tmp_path}").out
    assert shown.count(", measure ") == 2
    assert shown.count("figure: ") == 2
    first = measure_id(configure().measure)
    assert (
        shown.index(f"measure {first} ")
        < shown.index("figure: ")
        < shown.index(f"measure {measure_id(config.measure)} ")
        < shown.index(f"law_{measure_id(config.measure)}.png")
    )
    assert find_run(tmp_path, "last").id == run.id


def test_a_run_is_named_by_the_beginning_of_its_id(trained: Path, equisep: Command, tmp_path: Path) -> None:
    runs = list(all_runs(trained))
    for run in runs:
        assert find_run(trained, run.id[:8]).id == run.id
    for last in "12":
        (tmp_path / f"runs/00000000000000a{last}").mkdir(parents=True)
    ambiguous = equisep("show", "00", f"results={tmp_path}")
    assert ambiguous.err == (
        "equisep: run 00: 2 runs begin so (00000000000000a1, 00000000000000a2); add digits; equisep status lists all\n"
    )
    assert (
        equisep("show", "", f"results={trained}").err
        == "equisep: run: its id, the beginning of it, or last is missing\n"
    )
    unknown = equisep("show", "zzz", f"results={trained}")
    assert unknown.err == f"equisep: run zzz: no such run in {trained}/runs; equisep status lists all\n"


def test_a_run_that_is_not_measured_says_how_to_continue(
    equisep: Command, configure: Callable[..., Config], tmp_path: Path
) -> None:
    run = run_one(configure()).run
    for file in (run.path / "measures").iterdir():
        file.unlink()
    shown = equisep("show", "last", f"results={tmp_path}")
    assert shown.err == f"equisep: run {run.id}: nothing is measured yet; run the same command again to continue it\n"
