"""The store of runs: identity, folder, state, records, snapshots, measures, checkpoint.

results/runs/<id>/ holds

    config.yaml               the configuration, all values filled in, and the digests of the data
    state.json                running, interrupted, failed, done or diverged; machine, population
    submitted.json            the SLURM task that was given the run, and its submission
    owner.json                the process that trains or measures the run now; removed when it is through
    run.log                   what happened and when: starts, resumptions, failures with their traceback
    metrics.jsonl             a line an epoch: loss, accuracy, learning rate
    snapshots/epoch_E.safetensors   weights and buffers after E epochs
    measures/<id>.json        a measure's config and its records, one per snapshot and split
    robustness/<id>.json      perturbations' config and what the trained network is worth under them
    checkpoint.pt             all that an interrupted population goes on from, in its first member's folder

Every file is replaced whole, so that a reader or a crash meets the old content or the new; only
run.log and metrics.jsonl grow by lines; metrics.jsonl is written anew from the checkpoint, which
holds the epochs too, when a run is taken up again and when it ends. A process that held a run and
has lost it to another cannot write to it any more: every writer raises InUse.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from equisep.files import retrying, write_atomically
from equisep.law import Law, fit_law
from equisep.locks import QueuedTask, confirm, held, living_owner, queued_jobs
from equisep.robustness import Cell
from equisep.schema import (
    Config,
    Measure,
    Robustness,
    identity_of_measure,
    identity_of_robustness,
    identity_of_science,
    to_plain,
)
from equisep.training import Epoch

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

# libyaml's, where PyYAML was built with it, is five times as fast: a store has thousands of configs.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Raised whenever a change makes equal configurations give other results.
PROTOCOL = 1

FINISHED = ("done", "diverged")


class DamagedRun(RuntimeError):
    """A file of the store that cannot be read; the message names it and what to remove."""


@dataclass(frozen=True)
class LayerRecord:
    """One measure of one snapshot on one split.

    epoch: of the snapshot. split: train or test. layers: names, the input first. fuzziness: D of each.
    rank: of SS_b at each. classes: K. loss (nats) and accuracy (0 … 1) in evaluation mode.
    """

    epoch: int
    split: str
    layers: tuple[str, ...]
    fuzziness: tuple[float, ...]
    rank: tuple[int, ...]
    classes: int
    loss: float
    accuracy: float

    def law(self) -> Law | None:
        """Return the law fitted to D of all layers, or None where some D has no logarithm."""
        try:
            return fit_law(self.fuzziness)
        except ValueError:
            return None


@dataclass(frozen=True)
class Measured:
    """A measure of a run. settings: what the measure was; records: of its snapshots, by epoch and split."""

    settings: Mapping[str, Any]
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class Perturbed:
    """What perturbations do to a run's trained network. settings: what they are, and how D is taken; cells: of each."""

    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps({"robustness": self.settings, "cells": [asdict(cell) for cell in self.cells]})

    @classmethod
    def from_json(cls, text: str) -> Perturbed:
        """Return what :meth:`to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        content = json.loads(text)
        sequences = ("fuzziness", "last_fuzziness", "r", "train_accuracy", "test_accuracy")
        cells = (Cell(**(cell | {name: tuple(cell[name]) for name in sequences})) for cell in content["cells"])
        return cls(content["robustness"], tuple(cells))


@dataclass(frozen=True)
class Submitted:
    """The SLURM task that a run was given to. task: its id; submission: the name of its job, which no other has."""

    task: str
    submission: str

    def lives_in(self, queue: Mapping[str, QueuedTask]) -> bool:
        """Whether a queue has the task; SLURM may have used its id again."""
        return self.task in queue and queue[self.task].name == self.submission


def run_id(config: Config, data_digest: str) -> str:
    """Return the name of the run a config describes: 16 hex digits over science, training tensors and protocol."""
    return _hash({"science": science_id(config), "data": data_digest, "protocol": PROTOCOL})


def science_id(config: Config) -> str:
    """Return a name of the science of a config alone, which needs no data to be known."""
    return _hash(identity_of_science(config))


def measure_id(measure: Measure) -> str:
    """Return the name of a measure beneath a run: 8 hex digits over its config."""
    return _hash(identity_of_measure(measure))[:8]


def robustness_id(robustness: Robustness, measure: Measure) -> str:
    """Return the name of a run's perturbations beneath it: 8 hex digits over their config and how D is taken."""
    return _hash(identity_of_robustness(robustness, measure))[:8]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Run:
    """The folder of one run. Every reader raises DamagedRun, naming the file and a remedy, for one it cannot read."""

    def __init__(self, results: Path, identity: str) -> None:
        self.id = identity
        self.path = results / "runs" / identity

    def create(self, config: Config, data: Mapping[str, str | int]) -> None:
        """Make the folder with its config.yaml; an existing one keeps what it has. data: digests, source, sizes."""
        (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
        (self.path / "measures").mkdir(exist_ok=True)
        if not (self.path / "config.yaml").exists():
            content = to_plain(config) | {"data": dict(data), "protocol": PROTOCOL, "science": science_id(config)}
            write_atomically(self.path / "config.yaml", yaml.safe_dump(content, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """Return config.yaml as plain containers."""

        def parse(content: bytes) -> dict[str, Any]:
            config = yaml.load(content, Loader=_SAFE_LOADER)
            missing = {"architecture", "dataset", "optimizer", "training", "measure", "seed", "science"} - set(config)
            if missing:
                raise ValueError(f"it lacks {sorted(missing)[0]}")
            return dict(config)

        return self._read("config.yaml", parse, self._whole)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process; raises InUse where another living process does (see equisep.locks)."""
        with held(self.path / "owner.json", f"run {self.id}"):
            yield

    def confirm_held(self) -> None:
        """Raise InUse where this process held the run and another has taken it over; asked before every write."""
        confirm(self.path / "owner.json", f"run {self.id}")

    def owner(self) -> dict[str, Any] | None:
        """Return the living process that holds the run, or None."""
        return living_owner(self.path / "owner.json")

    def state(self) -> dict[str, Any]:
        """Return state.json, {"state": "new"} where there is none; a running run that nobody holds is interrupted."""
        if not (self.path / "state.json").exists():
            return {"state": "new"}

        def parse(content: bytes) -> dict[str, Any]:
            state: dict[str, Any] = json.loads(content)
            if state["state"] == "running" and self.owner() is None:
                state["state"] = "interrupted"
            return state

        return self._read("state.json", parse, self._whole)

    def write_state(self, state: str, **facts: Any) -> None:
        """Record the state and facts; those of the running state stay with later ones."""
        self.confirm_held()
        before = {} if state == "running" else self.state()
        content = before | {"state": state} | facts
        write_atomically(self.path / "state.json", json.dumps(content, indent=1).encode())

    @property
    def finished(self) -> bool:
        """Whether training has ended, by reaching the last epoch or by divergence."""
        return self.state()["state"] in FINISHED

    def mark_submitted(self, submitted: Submitted) -> None:
        """Record which SLURM task has the run."""
        write_atomically(self.path / "submitted.json", json.dumps(asdict(submitted)).encode())

    def submitted(self) -> Submitted | None:
        """Return the SLURM task that was given the run last, whether it lives or not, or None."""
        try:
            return Submitted(**json.loads(retrying((self.path / "submitted.json").read_bytes)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def log(self, text: str) -> None:
        """Add a dated line to run.log, which tells a person what happened to the run and when."""
        with (self.path / "run.log").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} {os.getpid()} {text}\n")

    def population(self) -> tuple[str, ...]:
        """Return the runs that this one goes on with from a checkpoint, itself included, or none without one.

        Raises DamagedRun where one of them has been removed meanwhile.
        """
        state = self.state()
        members = tuple(state.get("population", ()))
        if state["state"] == "done" or not members:
            return ()
        leader = self._sibling(members[0])
        if not (leader.path / "checkpoint.pt").exists() or tuple(leader.state().get("population", ())) != members:
            return ()
        for member in map(self._sibling, members):
            if tuple(member.state().get("population", ())) != members:
                checkpoint = leader.path / "checkpoint.pt"
                raise DamagedRun(f"run {member.id} of this population is gone: remove {checkpoint} to train it anew")
        return members

    def _sibling(self, identity: str) -> Run:
        return Run(self.path.parents[1], identity)

    def append_epoch(self, epoch: Epoch) -> None:
        """Add an epoch to metrics.jsonl."""
        self.confirm_held()
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")

    def epochs(self) -> list[Epoch]:
        """Return the recorded epochs; a last line cut off by a kill is left out."""
        if not (self.path / "metrics.jsonl").exists():
            return []

        def parse(content: bytes) -> list[Epoch]:
            whole_lines = content.decode().rpartition("\n")[0]
            # Parsed as one array, which takes a fifth of the time.
            epochs = [Epoch(**values) for values in json.loads(f"[{whole_lines.replace(chr(10), ',')}]")]
            if [epoch.epoch for epoch in epochs] != list(range(1, len(epochs) + 1)):
                raise ValueError("epochs are missing or doubled")
            return epochs

        return self._read("metrics.jsonl", parse, self._whole)

    def save_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Write metrics.jsonl anew."""
        self.confirm_held()
        content = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs)
        write_atomically(self.path / "metrics.jsonl", content.encode())

    def save_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights and buffers of an epoch."""
        self.confirm_held()
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(self.path / f"snapshots/epoch_{epoch:04d}.safetensors", safetensors.torch.save(content))

    def load_snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights and buffers of an epoch, on the CPU; raises DamagedRun if it is not there."""
        return self._read(f"snapshots/epoch_{epoch:04d}.safetensors", safetensors.torch.load, self._whole)

    def remove_snapshot(self, epoch: int) -> None:
        """Remove the weights of an epoch that turned out unusable."""
        self.confirm_held()
        (self.path / f"snapshots/epoch_{epoch:04d}.safetensors").unlink()

    def snapshot_epochs(self) -> list[int]:
        """Return the epochs whose weights are kept, ascending."""
        return sorted(int(path.stem.removeprefix("epoch_")) for path in self.path.glob("snapshots/epoch_*.safetensors"))

    def save_measure(self, measure: Measure, records: list[LayerRecord]) -> None:
        """Write a measure with all its records."""
        self.confirm_held()
        ordered = sorted(records, key=lambda record: (record.epoch, record.split))
        content = {"measure": identity_of_measure(measure), "records": [asdict(record) for record in ordered]}
        write_atomically(self.path / "measures" / f"{measure_id(measure)}.json", json.dumps(content).encode())

    def load_measure(self, measure: Measure) -> list[LayerRecord]:
        """Return the records of a measure so far, ordered by epoch and split."""
        name = f"{measure_id(measure)}.json"
        return list(self._load_measure(name).records) if (self.path / "measures" / name).exists() else []

    def load_measures(self) -> dict[str, Measured]:
        """Return every measure of the run, by measure id."""
        return {path.stem: self._load_measure(path.name) for path in sorted(self.path.glob("measures/*.json"))}

    def _load_measure(self, name: str) -> Measured:
        def parse(content: bytes) -> Measured:
            measured = json.loads(content)
            sequences = ("layers", "fuzziness", "rank")
            records = [
                LayerRecord(**(record | {key: tuple(record[key]) for key in sequences}))
                for record in measured["records"]
            ]
            return Measured(measured["measure"], tuple(records))

        return self._read(f"measures/{name}", parse, "remove the file, and the run is measured again")

    def save_robustness(self, identity: str, perturbed: Perturbed) -> None:
        """Write what perturbations did to the trained network, under their id."""
        self.confirm_held()
        (self.path / "robustness").mkdir(exist_ok=True)
        write_atomically(self.path / "robustness" / f"{identity}.json", perturbed.to_json().encode())

    def has_robustness(self, identity: str) -> bool:
        """Whether the network was perturbed in the way that an id names."""
        return (self.path / "robustness" / f"{identity}.json").exists()

    def load_robustness(self) -> dict[str, Perturbed]:
        """Return what perturbations of each kind of settings did to the trained network, by id."""
        found = {}
        for file in sorted(self.path.glob("robustness/*.json")):
            remedy = "remove the file, and the network is perturbed again"
            found[file.stem] = self._read(
                f"robustness/{file.name}", lambda content: Perturbed.from_json(content.decode()), remedy
            )
        return found

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        self.confirm_held()
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """Return the checkpoint on a device, or None where there is none."""
        if not (self.path / "checkpoint.pt").exists():
            return None

        def parse(content: bytes) -> dict[str, Any]:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            return state

        return self._read("checkpoint.pt", parse, "remove it, and the run is trained from the start")

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a training that has ended."""
        self.confirm_held()
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    @property
    def _whole(self) -> str:
        return f"remove the folder {self.path}, and the run is trained again"

    def _read(self, name: str, parse: Callable[[bytes], T], remedy: str) -> T:
        """Return what parse makes of a file of the run; whatever goes wrong with that becomes DamagedRun."""
        path = self.path / name
        try:
            return parse(retrying(path.read_bytes))
        except FileNotFoundError:
            raise DamagedRun(f"{path} is missing: {remedy}") from None
        except (
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            OSError,
            yaml.YAMLError,
            SafetensorError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedRun(f"{path} is damaged ({reason}): {remedy}") from None


def all_runs(results: Path) -> Iterator[Run]:
    """Yield every run of the store, by name."""
    for folder in sorted(results.glob("runs/*")):
        if folder.is_dir():
            yield Run(results, folder.name)


def status_table(results: Path) -> pd.DataFrame:
    """Return a row per run: run, state, epoch, epochs, what describes it; a damaged one says which file.

    A run that waits for, or runs in, a SLURM task says which.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    queue: dict[str, QueuedTask] | None = None
    asked = False
    for run in all_runs(results):
        try:
            config, state, epochs = run.config(), run.state(), run.epochs()
        except DamagedRun as error:
            rows.append({"run": run.id, "state": f"damaged: {str(error).split(': ')[0]}"})
            continue
        architecture, optimizer = config["architecture"], config["optimizer"]
        submitted = None if state["state"] in FINISHED else run.submitted()
        if submitted:
            # Asked once, and only where a run was submitted.
            if not asked:
                queue, asked = queued_jobs(), True
            state["state"] = f"{state['state']}, task {submitted.task} {_say_of(submitted, queue)}"
        rows.append(
            {
                "run": run.id,
                "state": str(state["state"]),
                "epoch": len(epochs),
                "of": config["training"]["epochs"],
                "dataset": f"{config['dataset']['name']} {config['dataset']['size']}",
                "architecture": " ".join(f"{key}={value}" for key, value in architecture.items()),
                "optimizer": f"{optimizer['kind']} {optimizer['learning_rate']:g}",
                "seed": config["seed"],
                "experiment": config["experiment"] or "",
            }
        )
    return pd.DataFrame(rows, dtype=object).fillna("")


def _say_of(submitted: Submitted, queue: Mapping[str, QueuedTask] | None) -> str:
    """Return what is known of a run's task, for a person."""
    if queue is None:
        return "(squeue does not answer)"
    return queue[submitted.task].state.lower() if submitted.lives_in(queue) else "ended"


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return what a reader of a result wants to know of where it came from: hardware, versions, commit."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "equisep": version("equisep"),
        "commit": commit.stdout.strip(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
