"""D during one's own training loop: equal to equisep.measure, at a stated cost, into a table that our readers read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import equisep
from equisep import SeparationCallback, load_laws, load_runs
from equisep.commands.main import main
from examples import vit_digits
from tests.conftest import ROOT


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def make_sample(points: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(points) % 3
    return torch.randn(points, 6, generator=torch.Generator().manual_seed(1)) + 2 * torch.eye(3, 6)[labels], labels


def train_one_epoch(network: nn.Module) -> None:
    inputs, labels = make_sample()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for batch in torch.arange(90).split(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()


def test_it_measures_as_measure_does_and_leaves_the_training_as_it_was() -> None:
    """The weights after training are those of a loop without it, bit for bit, also with dropout."""
    weights = []
    for watched in (True, False):
        network = make_network()
        callback = SeparationCallback(network, make_sample(), every=1) if watched else None
        for epoch in range(3):
            train_one_epoch(network)
            if callback:
                measured = callback(epoch + 1)
                assert measured is not None
                assert measured.fuzziness == equisep.measure(network, make_sample(), metrics="fuzziness").fuzziness
        assert network.training
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_every_so_many_calls_or_as_often_as_a_tenth_of_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = SeparationCallback(make_network(), make_sample(), every=3)
    assert [epoch for epoch in range(7) if callback(epoch)] == [0, 3, 6]
    clock = [0.0]
    monkeypatch.setattr("equisep.callbacks.loop.time.perf_counter", lambda: clock[0])

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += 2.0
        return equisep.measure(*arguments, **options)

    monkeypatch.setattr("equisep.callbacks.loop.measure", slow)
    callback = SeparationCallback(make_network(), make_sample())
    measured = []
    for epoch in range(101):
        clock[0] += 1.0  # a second of training
        if callback(epoch):
            measured.append(epoch)
    # Two seconds of measuring need twenty of training.
    assert measured == [0, 20, 40, 60, 80, 100]
    assert callback.share == pytest.approx(12 / 101)
    assert callback.seconds == 12


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_its_table_is_a_source_of_runs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    for run in ("a", "b"):
        network = make_network()
        callback = SeparationCallback(network, make_sample(), run=run, every=2, to=path)
        for epoch in range(5):
            callback(epoch, loss=0.5)
            train_one_epoch(network)
    runs = load_runs(path)
    assert set(runs["run"]) == {"a", "b"}
    assert set(runs["epoch"]) == {0, 2, 4}
    assert set(runs["loss"]) == {0.5}
    last = runs.query("run == 'b' and epoch == 4").sort_values("layer")
    assert last["name"].tolist() == ["input", "2", "5"]
    assert last["D"].tolist() == pytest.approx(list(callback.measurements[4].fuzziness))
    assert len(load_laws(path)) == 6
    # A resumed run continues its rows; one that starts again replaces them.
    resumed = SeparationCallback(make_network(), make_sample(), run="b", every=1, to=path)
    resumed(3)
    resumed(6)
    assert set(load_runs(path).query("run == 'b'")["epoch"]) == {0, 2, 3, 6}
    SeparationCallback(make_network(), make_sample(), run="b", to=path)(0)
    assert set(load_runs(path).query("run == 'b'")["epoch"]) == {0}
    assert main(["figure", "law", f"source={path}", f"results={tmp_path}"]) == 0
    assert len(pd.read_csv(tmp_path / "tables/law.csv")) == 2


def test_it_logs_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    from equisep.store.wandb_log import read_log

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path), project="own", reinit="create_new") as run:
        callback = SeparationCallback(make_network(), make_sample(), wandb_run=run)
        measured = callback(3, loss=0.25)
    assert measured is not None
    (log,) = tmp_path.rglob("*.wandb")
    row = next(row for row in read_log(log).rows if "r" in row)
    assert row["r"] == pytest.approx(measured.law.pearson_r)
    assert (row["epoch"], row["loss"]) == (3, 0.25)
    assert row["D/input"] == pytest.approx(measured.fuzziness[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every=0: must be an integer, at least 1, or None"),
        ({"points": 1}, "points=1: must be an integer, at least 2"),
        ({"to": "law.txt"}, "to=law.txt: must end with .csv or .jsonl"),
        ({"to": "/proc/none/law.csv"}, "to=/proc/none/law.csv: cannot be written"),
        ({"run": ""}, "run='': must be a name"),
        ({"run": 3}, "run=3: must be a name"),
        ({"metrics": ("nc1",)}, "metrics: must have fuzziness, which is D, among them"),
        ({"wandb_run": "run"}, "wandb_run='run': must be what wandb.init returned"),
        ({"sample": (torch.zeros(9, 6), torch.arange(8))}, "must have equally many of each, not 9 inputs, 8 labels"),
        ({"sample": {"x": [[1], [1, 2]], "labels": [0, 1]}}, "sample: x is no tensor or array of numbers"),
        ({"sample": (torch.full((9, 6), torch.nan), torch.arange(9))}, "sample: inputs: point 0 is not finite"),
        ({"layers": "lair"}, "layer 'lair': no such module; choose from 0, 1"),
        ({"metrics": "nc9"}, "metrics: 'nc9'; choose from fuzziness"),
        ({"sample": (torch.zeros(9, 5), torch.arange(9))}, "network: fails on the sample: mat1 and mat2 shapes"),
        ({"sample": (torch.zeros(9, 6), torch.zeros(9).long())}, "separation needs at least two classes, not one"),
        ({"sample": (torch.zeros(9, 6), torch.zeros(9))}, "labels must be integers, not torch.float32"),
        ({"sample": [(torch.zeros(9, 5), torch.arange(9))] * 3}, "network: fails on the sample: mat1 and mat2 shapes"),
        ({"sample": torch.zeros(3)}, "data: Tensor; give \\(inputs, labels\\), a DataLoader or a list of batches"),
        ({"sample": {"x": torch.zeros(9, 6)}}, "batch 0 has no labels under labels or label"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeparationCallback(make_network(), arguments.pop("sample", make_sample()), **arguments)


def test_a_call_that_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    callback = SeparationCallback(None, make_sample(), every=1)
    with pytest.raises(ValueError, match="network: is None; set the callback's network before it is called"):
        callback(0)
    callback.network = make_network()
    callback(1)
    with pytest.raises(ValueError, match="epoch=1: was measured before; another training needs a callback of its own"):
        callback(1)
    with pytest.raises(ValueError, match="epoch=1.5: must be an integer"):
        callback(1.5)  # type: ignore[arg-type]


def test_the_trained_network_can_be_measured_at_the_end(tmp_path: Path) -> None:
    callback = SeparationCallback(make_network(), make_sample(), every=5)
    for epoch in range(8):
        callback(epoch)
    assert callback.finish(8, loss=1.0) is not None
    assert callback.finish(8) is None
    assert sorted(callback.measurements) == [0, 5, 8]


def test_a_file_that_can_no_longer_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    callback = SeparationCallback(make_network(), make_sample(), every=1, to=path)
    callback(1)
    path.rename(tmp_path / "aside.csv")
    path.mkdir()
    with pytest.warns(UserWarning, match="mine.csv is not written: .*Is a directory"):
        assert callback(2) is not None
    path.rmdir()
    callback(3)
    assert set(load_runs(path)["epoch"]) == {1, 2, 3}


def test_a_training_that_diverges_goes_on(tmp_path: Path) -> None:
    network = make_network()
    callback = SeparationCallback(network, make_sample(), every=1, to=tmp_path / "mine.csv")
    callback(1, loss=torch.tensor(0.5))
    network[0].weight.data.fill_(torch.nan)
    with pytest.warns(UserWarning, match="epoch 2 is not measured: layer '2', batch 0 .* NaN or infinite"):
        assert callback(2) is None
    table = pd.read_csv(tmp_path / "mine.csv")
    assert (set(table["epoch"]), set(table["loss"])) == ({1}, {0.5})


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for content in ("a,b\n1,2\n", "run,epoch,D\nmine,first,2\n"):
        (tmp_path / "notes.csv").write_text(content)
        with pytest.raises(ValueError, match="is no table of runs, .*; choose another file"):
            SeparationCallback(make_network(), make_sample(), to=tmp_path / "notes.csv")
    with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\)"):
        SeparationCallback(make_network(), make_sample(), to=tmp_path / "folder.csv")


def test_a_value_with_the_name_of_a_column_is_refused() -> None:
    callback = SeparationCallback(make_network(), make_sample())
    for name in ("layer", "ratio", "r"):
        with pytest.raises(ValueError, match=f"{name}: is a column of the table; give the value another name"):
            callback(1, **{name: 3})
    with pytest.raises(ValueError, match=r"loss: must be one number, not \(2,\)"):
        callback(1, loss=torch.zeros(2))
    with pytest.raises(ValueError, match="note: must be a number or text, not list"):
        callback(1, note=[1])
    with pytest.raises(TypeError, match="evry: is no argument of the callback or of equisep.measure"):
        SeparationCallback(make_network(), make_sample(), evry=1)


def test_the_sample_may_be_batches_or_a_mapping() -> None:
    inputs, labels = make_sample()
    network = make_network()
    data = torch.utils.data.TensorDataset(inputs, labels)
    in_steps = torch.linspace(0, 89, 60).round().long()
    state = torch.get_rng_state()
    for sample, points in (
        (torch.utils.data.DataLoader(data, batch_size=20), slice(60)),
        (torch.utils.data.DataLoader(data, batch_size=90, shuffle=True), slice(90)),
        ({"input": inputs, "labels": labels}, in_steps),
        ((inputs, labels), in_steps),
    ):
        callback = SeparationCallback(network, sample, points=60, batch_size=20)
        measured = callback(0)
        assert measured is not None
        expected = equisep.measure(network, (inputs[points], labels[points]), metrics="fuzziness")
        assert measured.fuzziness == pytest.approx(expected.fuzziness, rel=1e-5)
    # A loader that shuffles draws no random numbers of the training.
    assert torch.equal(state, torch.get_rng_state())


def test_a_sorted_sample_keeps_its_classes_and_is_a_copy() -> None:
    inputs, labels = make_sample()
    order = labels.argsort()
    sample = (inputs[order], labels[order])
    callback = SeparationCallback(make_network(), sample, points=30, every=1)
    first = callback(0)
    sample[0].zero_()
    again = callback(1)
    assert first is not None
    assert again is not None
    assert (first.classes, again.fuzziness) == (3, first.fuzziness)


def test_what_may_mislead_is_a_warning_once() -> None:
    callback = SeparationCallback(make_network(), make_sample(4), every=1)
    with pytest.warns(UserWarning, match="layers have more features than points"):
        callback(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback(1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_other_rows_of_the_file_stay_character_by_character(tmp_path: Path, suffix: str) -> None:
    """Names that look like numbers, small values of D, and columns of others."""
    path = tmp_path / f"mine{suffix}"
    rows = [{"run": "007", "epoch": "1", "layer": str(n), "D": "1e-12", "commit": "0012e45"} for n in range(2)]
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    for run in ("1e-3", "NA", "01"):
        callback = SeparationCallback(make_network(), make_sample(), run=run, every=1, to=path)
        for epoch in range(3):
            callback(epoch, loss=0.1)
    written = path.read_text().splitlines()
    assert [line.rstrip(",") for line in written[len(lines) - 2 : len(lines)]] == lines[-2:]
    runs = load_runs(path)
    assert set(runs["run"]) == {"007", "1e-3", "NA", "01"}
    ours = runs.query("run == '01' and epoch == 2").sort_values("layer")
    assert ours["D"].tolist() == list(callback.measurements[2].fuzziness)
    laws = load_laws(path)
    assert laws["run"].tolist() == sorted(laws["run"])


def test_sharded_weights_are_refused() -> None:
    class DTensor(nn.Parameter):
        """As of FSDP and tensor parallelism, which need several processes."""

    network = make_network()
    callback = SeparationCallback(network, make_sample())
    network.part = DTensor(torch.zeros(2))
    with pytest.raises(ValueError, match="its weights are sharded over processes"):
        callback(0)
    with pytest.raises(ValueError, match="its weights are sharded over processes"):
        SeparationCallback(network, make_sample())
    with pytest.raises(ValueError, match="network: function is no torch module"):
        SeparationCallback(make_sample, make_sample())  # type: ignore[arg-type]


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from equisep import SeparationCallback
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
network = torch.nn.parallel.DistributedDataParallel(
    torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
)
labels = torch.arange(20) % 2
callback = SeparationCallback(network, (torch.randn(20, 4) + labels[:, None], labels), every=1)
print(rank, callback(1) is not None)
dist.barrier()
"""


def test_in_a_distributed_run_rank_0_measures(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in ranks] == ["0 True", "1 False"]


def test_the_example_trains_a_vision_transformer(tmp_path: Path) -> None:
    """At smoke size; its blocks are the layers."""
    callback = vit_digits.train(epochs=2, to=str(tmp_path / "vit.csv"), blocks=2)
    table = load_runs(tmp_path / "vit.csv")
    assert [name for name in table.query("epoch == 0")["name"] if name != "input"] == ["blocks.0", "blocks.1"]
    assert callback.measurements[0].classes == 10
    assert (table["D"] > 0).all()
