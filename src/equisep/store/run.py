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

import io
import json
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from safetensors import SafetensorError

from equisep.config import (
    PROTOCOL,
    Config,
    EquisepError,
    Measure,
    config_hash,
    identity_of_measure,
    measure_id,
    to_plain,
)
from equisep.files import retrying, write_atomically
from equisep.measures import Epoch, LayerRecord, Measurement, RobustnessResults
from equisep.store.locks import confirm, held, living_owner
from equisep.store.serialization import (
    EPOCHS,
    SUBMITTED,
    Submitted,
    measurement_from_json,
    measurement_to_json,
    robustness_from_json,
    robustness_to_json,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
# libyaml's, where PyYAML was built with it, is five times as fast: a store has thousands of configs.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FINISHED = ("done", "diverged")


class DamagedRun(EquisepError):
    """A file of the store that cannot be read; the message names it and what to remove."""


class LaterProtocol(DamagedRun):
    """A run that a later version of the package recorded, under a protocol that this one does not know."""


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
            content = to_plain(config) | {"data": dict(data), "protocol": PROTOCOL, "science": config_hash(config)}
            write_atomically(self.path / "config.yaml", yaml.safe_dump(content, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """Return config.yaml as plain containers."""

        def parse(content: bytes) -> dict[str, Any]:
            config = yaml.load(content, Loader=_SAFE_LOADER)
            missing = {"architecture", "dataset", "optimizer", "training", "measure", "seed", "science"} - set(config)
            if missing:
                raise ValueError(f"it lacks {sorted(missing)[0]}")
            refuse_later_protocol(self.id, config.get("protocol"))
            return dict(config)

        return self._read("config.yaml", parse, self._whole)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process; raises InUse where another living process does (see equisep.store.locks)."""
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
            return SUBMITTED.parse(retrying((self.path / "submitted.json").read_bytes))
        except (FileNotFoundError, ValueError):
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
            epochs = EPOCHS.parse(f"[{whole_lines.replace(chr(10), ',')}]")
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
        import safetensors.torch

        content = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(self.path / f"snapshots/epoch_{epoch:04d}.safetensors", safetensors.torch.save(content))

    def load_snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights and buffers of an epoch, on the CPU; raises DamagedRun if it is not there."""
        import safetensors.torch

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
        content = measurement_to_json(identity_of_measure(measure), records)
        write_atomically(self.path / "measures" / f"{measure_id(measure)}.json", content.encode())

    def load_measure(self, measure: Measure) -> list[LayerRecord]:
        """Return the records of a measure so far, ordered by epoch and split."""
        name = f"{measure_id(measure)}.json"
        return list(self._load_measure(name).records) if (self.path / "measures" / name).exists() else []

    def load_measures(self) -> dict[str, Measurement]:
        """Return every measure of the run, by measure id."""
        return {path.stem: self._load_measure(path.name) for path in sorted(self.path.glob("measures/*.json"))}

    def _load_measure(self, name: str) -> Measurement:
        remedy = "remove the file, and the run is measured again"
        return self._read(f"measures/{name}", measurement_from_json, remedy)

    def save_robustness(self, identity: str, robustness: RobustnessResults) -> None:
        """Write a robustness evaluation of the trained network under its id."""
        self.confirm_held()
        (self.path / "robustness").mkdir(exist_ok=True)
        write_atomically(self.path / "robustness" / f"{identity}.json", robustness_to_json(robustness).encode())

    def has_robustness(self, identity: str) -> bool:
        """Whether the robustness evaluation of an id is recorded."""
        return (self.path / "robustness" / f"{identity}.json").exists()

    def load_robustness(self) -> dict[str, RobustnessResults]:
        """Return every robustness evaluation of the trained network, by id."""
        remedy = "remove the file, and robustness is evaluated again"
        files = sorted(self.path.glob("robustness/*.json"))
        return {file.stem: self._read(f"robustness/{file.name}", robustness_from_json, remedy) for file in files}

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        self.confirm_held()
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """Return the checkpoint on a device, or None where there is none."""
        if not (self.path / "checkpoint.pt").exists():
            return None
        import torch

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
        except LaterProtocol:
            raise
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


def refuse_later_protocol(run: str, protocol: object) -> None:
    """Raise LaterProtocol, in one line, for a run that a later version of the package recorded."""
    if isinstance(protocol, int) and protocol > PROTOCOL:
        raise LaterProtocol(
            f"run {run} was recorded under protocol {protocol}, this version of equisep knows {PROTOCOL}: "
            "update equisep, or name another results folder"
        )


def all_runs(results: Path) -> Iterator[Run]:
    """Yield every run of the store, by name."""
    for folder in sorted(results.glob("runs/*")):
        if folder.is_dir():
            yield Run(results, folder.name)
