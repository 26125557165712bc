"""Runs read from the store, from wandb logs and from a wandb project: equal records, and flaws for damaged ones."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from wandb.util import get_core_path

from equisep.analysis.experiments import expand_experiment
from equisep.analysis.tables import collect_tables
from equisep.config import ConfigError, compose_config, identity_of_measure, to_plain
from equisep.data import Data
from equisep.execution.train import execute
from equisep.measures import Epoch, LayerRecord, Measurement, fit_law
from equisep.store import RunRecord, load_runs, read_records, read_store, tabulate_robustness
from equisep.store.readers import read_logs
from equisep.store.table import tabulate
from equisep.store.wandb_log import read_log, record_from_wandb
from tests.processes import start
from tests.store.files import edit
from tests.wandb_server import StoredRun, WandbServer

KEY = "0" * 40
# The keys of a run's history in wandb.
KEYS_LOGGED = (
    *(f"training/{name}" for name in ("loss", "accuracy", "learning_rate")),
    *(f"{split}/{name}" for split in ("train", "test") for name in ("D/00", "r", "decay_ratio", "loss", "accuracy")),
    *(f"robustness/{kind}" for kind in ("weights", "input_noise", "corruptions", "fgsm", "pgd")),
)


SMOKE_OF_ADAM = ["training=smoke", "seed=1,2", "architecture.depth=4", "optimizer=adam", "measures=null"]


def rows_read_by_wandb(log: Path) -> list[dict[str, object]]:
    """Return the history rows of a log as ``wandb leet inspect`` lists them, without the start of its Python part.

    wandb's service may write the end of a log shortly after its run has finished: it is waited for.
    """
    inspect = [get_core_path(), "leet", "inspect", "--json", "--no-observability", "--run-file", str(log)]
    until = time.monotonic() + 60
    while True:
        listed = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
        entries = [json.loads(line) for line in listed.splitlines()]
        if any("exit" in entry for entry in entries):
            return [entry["history"]["item"] for entry in entries if "history" in entry]
        assert time.monotonic() < until, f"{log} has no end"
        time.sleep(0.05)


def wait_for_logs(results: Path) -> None:
    """Wait until wandb's service has written the end of every log of a results folder."""
    for log in results.glob("wandb/offline-run-*/*.wandb"):
        rows_read_by_wandb(log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and its wandb logs: a network measured twice, one evaluated for robustness, and a diverged one."""
    folder = tmp_path_factory.mktemp("results")
    fixed = [f"results={folder}", "tracking=offline", "training=smoke"]
    overrides = [["seed=1"], ["seed=2"], ["seed=3", "optimizer=sgd", "optimizer.learning_rate=1e30"]]
    execute([compose_config([*fixed, *more, "architecture.depth=4"]) for more in overrides])
    execute([compose_config([*fixed, "seed=2", "architecture.depth=4", "measure.batch_norm=running"])])
    robustness = ["robustness=standard", "robustness.draws=2", "robustness.test_images=50", "robustness.pgd=[.01]"]
    execute([compose_config([*fixed, "seed=1", "architecture.depth=4", *robustness])])
    wait_for_logs(folder)
    return folder


def make_record(
    run: str,
    fuzziness: list[float],
    *,
    state: str = "done",
    flaw: str = "",
    protocol: int = 1,
    test_accuracy: float = 0.8,
    training: str = "training.epochs=2",
) -> RunRecord:
    """Return a record with these values of D at its last epoch, of a network like the paper's."""
    data = {"train_images": 1000, "test_images": 10_000}
    config = to_plain(compose_config(["training=smoke", training])) | {
        "protocol": protocol,
        "science": run,
        "data": data,
    }
    names = ("input", *(f"hidden.{layer}" for layer in range(len(fuzziness) - 1)))
    ranks = (9,) * len(names)
    records = [
        LayerRecord(2, split, names, tuple(fuzziness), ranks, 10, 0.0, accuracy)
        for split, accuracy in (("test", test_accuracy), ("train", 1.0))
    ]
    measures = {"a": Measurement(identity_of_measure(compose_config([]).measure), tuple(records))}
    epochs = (Epoch(1, 0.5, 0.9, 1e-3), Epoch(2, 0.1, 1.0, 1e-3))
    return RunRecord(run, config, {"state": state, "seconds": 1.0}, epochs, measures, {}, flaw)


def test_the_store_is_one_tidy_table(results: Path) -> None:
    table = load_runs(results)
    assert table["run"].nunique() == 3
    assert set(table["state"]) == {"done", "diverged"}
    assert not table.duplicated(["run", "measure", "epoch", "split", "layer"]).any()
    # Training set: epochs 0 and 2; test set: the last epoch; four layers each.
    assert (table.loc[table["seed"] == 1, "architecture.depth"] == 4).all()
    one = table[(table["seed"] == 1) & (table["epoch"] == 2) & (table["split"] == "train")].sort_values("layer")
    assert one["name"].tolist() == ["input", "hidden.0", "hidden.1", "hidden.2"]
    assert one["NC1"].tolist() == (one["D"] / 10).tolist()
    assert one["ratio"].tolist()[1:] == list(fit_law(one["D"]).layer_ratios)
    assert one["training_loss"].nunique() == 1
    assert table.loc[table["epoch"] == 0, "training_loss"].isna().all()
    assert set(table.loc[table["seed"] == 2, "measure.batch_norm"]) == {"batch", "running"}
    assert table[["commit", "torch", "processor", "seconds"]].notna().all(axis=None)


def test_the_keys_used_by_dashboards_are_logged(results: Path) -> None:
    logs = [read_log(path) for path in results.glob("wandb/offline-run-*/*.wandb")]
    assert set(KEYS_LOGGED) <= {key for log in logs for row in log.rows for key in row}


def test_the_logs_equal_the_store(results: Path) -> None:
    pd.testing.assert_frame_equal(load_runs(results / "wandb"), load_runs(results), check_exact=True)
    # Compared as text, in which NaN equals NaN.
    assert list(map(repr, read_logs(results / "wandb"))) == list(map(repr, read_store(results)))


def test_robustness_results_are_one_table(results: Path) -> None:
    records = list(read_store(results))
    table = tabulate_robustness(records)
    (evaluated,) = (record for record in records if record.robustness)
    assert set(table["run"]) == {evaluated.run}
    assert evaluated.config["seed"] == 1
    assert not table.duplicated(["run", "robustness", "kind", "strength", "layer", "draw"]).any()
    assert table.groupby("kind")["strength"].nunique().to_dict() == {
        **{"clean": 1, "weights": 8, "one_layer": 1, "input_noise": 8, "corruptions": 8, "fgsm": 8, "pgd": 1}
    }
    assert set(table.loc[table["kind"] == "one_layer", "layer"]) == {1, 2, 3, 4}
    clean = table[table["kind"] == "clean"].iloc[0]
    (measurement,) = evaluated.measures.values()
    last = {record.split: record for record in measurement.records if record.epoch == 2}
    assert clean["D_last"] == pytest.approx(last["train"].fuzziness[-1], rel=1e-5)
    assert clean["train_accuracy"] == last["train"].accuracy
    assert tabulate_robustness([]).empty


def test_a_wandb_project_equals_the_store(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stored = []
    for path in sorted(results.glob("wandb/offline-run-*/*.wandb")):
        log = read_log(path)
        rows = [dict(row) | {"_step": step} for step, row in enumerate(log.rows)]
        # As the server returns them: infinities and NaN are text.
        plain = [{key: _as_text(value) for key, value in row.items()} for row in rows]
        stored.append(StoredRun(path.stem.removeprefix("run-"), log.config, log.summary, plain))
    # The server has the later of one run's two segments.
    latest = {run.name: run for run in stored}
    _point_wandb_at(monkeypatch, tmp_path)
    with WandbServer("team", "law", list(latest.values())) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        table = load_runs("wandb:team/law")
        assert any("HistoryPage" in query for query in server.queries)
        pd.testing.assert_frame_equal(table, load_runs(results), check_exact=True)
        with pytest.raises(ConfigError, match="source=wandb:team/other: .*project other"):
            load_runs("wandb:team/other")
        server.status = 401
        with pytest.raises(ConfigError, match="refused with 401.*needs an account"):
            load_runs("wandb:team/law")


def _as_text(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    return value


def test_without_an_account_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _point_wandb_at(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="source=wandb:a/b: .*WANDB_API_KEY") as caught:
        load_runs("wandb:a/b")
    assert "\n" not in str(caught.value)


def _point_wandb_at(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "source=nowhere: neither a results folder"),
        ("wandb:equisep", "source=wandb:equisep: must be wandb:ENTITY/PROJECT"),
        ("wandb:/equisep", "source=wandb:/equisep: "),
    ],
)
def test_an_invalid_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_runs(source)


def test_the_log_reader_agrees_with_wandbs(results: Path) -> None:
    for path in results.glob("wandb/offline-run-*/*.wandb"):
        expected = rows_read_by_wandb(path)
        log = read_log(path)
        losses = [_as_text(row["training/loss"]) for row in log.rows if "training/loss" in row]
        assert losses == [row["training/loss"] for row in expected if "training/loss" in row]
        fuzziness = [row["train/D/03"] for row in log.rows if "train/D/03" in row]
        assert fuzziness == [row["train/D/03"] for row in expected if "train/D/03" in row]
        assert len(log.rows) == len(expected)


def test_a_damaged_log_has_a_flaw_and_no_measurements(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    shutil.copytree(results / "wandb", folder)
    whole = {record.run: record for record in read_logs(folder)}
    paths = {path.stem.removeprefix("run-"): path for path in sorted(folder.glob("offline-run-*/*.wandb"))}
    cut, empty, _ = sorted(paths)
    content = paths[cut].read_bytes()
    paths[cut].write_bytes(content[: len(content) * 2 // 3])
    paths[empty].write_bytes(content[:7])
    (folder / "offline-run-20200101_000000-strange").mkdir()
    (folder / "offline-run-20200101_000000-strange/run-strange.wandb").write_bytes(b"not a log")
    records = {record.run: record for record in read_logs(folder)}
    assert records[cut].flaw.endswith("the log is cut off")
    assert records[cut].state["state"] == "interrupted"
    assert records[cut].epochs == whole[cut].epochs[: len(records[cut].epochs)]
    assert "not a wandb log" in records["strange"].flaw
    table = load_runs(folder)
    assert set(table.loc[table["run"] == "strange", "state"]) == {"damaged"}
    assert table.loc[table["run"] == "strange", "D"].isna().all()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    paths[cut].write_bytes(damaged)
    assert {record.run: record for record in read_logs(folder)}[cut].flaw.endswith("the log is damaged")


def test_a_missing_layer_is_a_flaw(results: Path) -> None:
    (path, *_) = sorted(results.glob("wandb/offline-run-*/*.wandb"))
    log = read_log(path)
    rows = [{key: value for key, value in row.items() if key != "train/D/02"} for row in log.rows]
    record = record_from_wandb("run", log.config, rows, log.summary)
    assert record.flaw == "epoch 0, train: layer 2 has no D"
    assert record.measures == {}
    assert tabulate([record])["flaw"].tolist() == [record.flaw]


def test_a_damaged_run_of_the_store_is_excluded_and_listed(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "runs", tmp_path / "runs")
    points = expand_experiment("optimizers", [f"results={tmp_path}", *SMOKE_OF_ADAM])
    assert collect_tables(points).missing == 0
    (run, *_) = {record.run: record for record in read_store(tmp_path) if record.config["seed"] == 1}
    (tmp_path / "runs" / run / "measures/e04d71d8.json").write_text("{")
    tables = collect_tables(points)
    assert (len(tables.runs), tables.missing) == (1, 0)
    (flaw,) = tables.flaws
    assert flaw.startswith(f"Left out: run {run}, ")
    table = load_runs(tmp_path)
    assert set(table.loc[table["run"] == run, "state"]) == {"damaged"}


def test_runs_of_another_protocol_are_not_part_of_an_experiment(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "runs", tmp_path / "runs")
    overrides = [f"results={tmp_path}", "training=smoke", "seed=1,2", "architecture.depth=4", "optimizer=adam"]
    for path in tmp_path.glob("runs/*/config.yaml"):
        edit(path, lambda text: text.replace("protocol: 1", "protocol: 0"))
    assert collect_tables(expand_experiment("optimizers", overrides)).missing == 2
    assert set(load_runs(tmp_path)["protocol"]) == {0}


LONG_TRAINING = ["training=smoke", "training.epochs=100000", "architecture.depth=4", "tracking=offline"]
LONG_TRAINING += ["compute.compile=never"]


@pytest.mark.slow
def test_a_killed_runs_log_lacks_at_most_two_seconds(tmp_path: Path, fashion: Data) -> None:
    process = start(*LONG_TRAINING, f"results={tmp_path}")
    try:
        _wait_for(lambda: any(len(record.epochs) > 20 for record in read_store(tmp_path)))
        # wandb is imported and opened while the run trains.
        _wait_for(lambda: any(record.epochs for record in read_logs(tmp_path / "wandb")))
        # Training is paused, so that its log reaches the file within two seconds.
        process.signal(signal.SIGSTOP)
        time.sleep(2.0)
    finally:
        process.signal(signal.SIGKILL, group=True)
    process.wait()
    (stored,) = read_store(tmp_path)
    (logged,) = read_logs(tmp_path / "wandb")
    assert stored.state["state"] == logged.state["state"] == "interrupted"
    # It may have been paused between the store's record and the mirror's.
    assert logged.epochs in (stored.epochs, stored.epochs[:-1])
    assert logged.measures == stored.measures


def _wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not done():
        assert time.monotonic() < until, "nothing was recorded in two minutes"
        time.sleep(0.1)


def test_segments_of_one_run_are_merged(results: Path, tmp_path: Path) -> None:
    """A run that was killed and resumed has two logs; the later one is used, and no record is repeated."""
    shutil.copytree(results / "wandb", tmp_path / "wandb")
    (path, *_) = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    earlier = path.parent.with_name("offline-run-20200101_000000-" + path.stem.removeprefix("run-"))
    earlier.mkdir()
    (earlier / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    pd.testing.assert_frame_equal(load_runs(tmp_path / "wandb"), load_runs(results / "wandb"))


def test_only_the_requested_config_hashes_are_read(results: Path) -> None:
    one = next(iter(read_store(results)))
    for source in (results, results / "wandb"):
        assert [record.run for record in read_records(source, {one.config["science"]})] == [one.run]


def test_a_truncated_log_is_never_complete(results: Path, tmp_path: Path) -> None:
    whole = {record.run: record for record in read_logs(results / "wandb")}
    # The last segment has all records of its run.
    (*_, path) = sorted(results.glob("wandb/offline-run-*/*.wandb"))
    run, content = path.stem.removeprefix("run-"), path.read_bytes()
    copy = tmp_path / path.parent.name / path.name
    copy.parent.mkdir()
    ended = []
    for length in range(7, len(content), 97):
        copy.write_bytes(content[:length])
        (record,) = read_logs(tmp_path)
        if record.state["state"] in ("done", "diverged"):
            ended.append(record)
    # The final state is logged last, after all records.
    assert len(ended) < 10
    assert all((record.epochs, record.measures) == (whole[run].epochs, whole[run].measures) for record in ended)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("measures/e04d71d8.json", lambda text: text.replace('"fuzziness": [', '"fuzziness": [1.5, '), "a layer is"),
        ("measures/e04d71d8.json", lambda text: text.replace('"fuzziness": [', '"fuzziness": [NaN, '), "layer"),
        ("measures/e04d71d8.json", lambda text: text.replace('"classes": 10', '"classes": 0'), "0 classes"),
        (
            "measures/e04d71d8.json",
            lambda text: '{"measure": null, "records": []}',
            "measures/e04d71d8.json is damaged (measure: ",
        ),
        ("state.json", lambda text: '{"state": "done", "machine": null, "population": []}', "no seconds"),
        ("state.json", lambda text: '{"state": 3}', "(state: "),
        ("measures/e04d71d8.json", lambda text: text.replace('"split": ', '"colour": "red", "split": '), "colour: "),
        ("config.yaml", lambda text: text.replace("protocol: 1", "protocol: x"), "(protocol: "),
        ("config.yaml", lambda text: text.replace("protocol:", "prologue:"), "(protocol: "),
        ("config.yaml", lambda text: text.replace("momentum:", "movement:"), "(optimizer.momentum: "),
        ("metrics.jsonl", lambda text: text.splitlines()[0] + "\n", "1 of 2 epochs"),
    ],
)
def test_one_invalid_file_makes_one_run_flawed(
    results: Path, tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    shutil.copytree(results / "runs", tmp_path / "runs")
    (run,) = [record.run for record in read_store(results) if record.config["seed"] == 1]
    path = tmp_path / "runs" / run / file
    edit(path, change)
    table = load_runs(tmp_path)
    assert table["run"].nunique() == 3
    (flaw,) = set(table.loc[table["run"] == run, "flaw"])
    assert message in flaw
    assert (table.loc[table["run"] != run, "flaw"] == "").all()
    points = expand_experiment("optimizers", [f"results={tmp_path}", *SMOKE_OF_ADAM])
    tables = collect_tables(points)
    assert len(tables.runs) == 1
    assert len(tables.flaws) + tables.missing == 1


@pytest.mark.parametrize(
    ("config", "rows", "summary"),
    [
        ({"learning_rate": 1}, [{"epoch": 1, "loss": 2.0}], {}),
        ({"science": "x"}, [], {"run": "hello"}),
        ({"science": "x"}, [{"epoch": None}, {"epoch": "first"}], {}),
        ({"science": "x", "measures": ["a"]}, [{"epoch": 1, "training/loss": 1.0}], {}),
        ({}, [], {"run": {"state": "done"}}),
    ],
)
def test_a_foreign_run_is_damaged_and_does_not_affect_others(config: dict, rows: list, summary: dict) -> None:
    record = record_from_wandb("foreign", config, rows, summary)
    assert record.flaw
    assert record.state["state"] == "damaged"
    assert len(tabulate([record, make_record("a", [2.0, 1.5, 1.0])])) == 1 + 2 * 3
