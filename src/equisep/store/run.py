"""The store of runs: identity, folder, state, records, snapshots, measures, checkpoint.

results/runs/<id>/ contains

    config.yaml               the complete configuration and the digests of the data
    state.json                running, interrupted, failed, done or diverged; machine, population
    submitted.json            the SLURM task that the run was submitted to
    owner.json                the process that trains or measures the run now; removed when it has ended
    run.log                   what happened and when: starts, resumptions, failures with their traceback
    metrics.jsonl             one line per epoch: loss, accuracy, learning rate
    snapshots/epoch_E.safetensors   weights and buffers after E epochs
    measures/<id>.json        a measure's config and its records, one per snapshot and split
    robustness/<id>.json      a robustness evaluation's config and its results for the trained network
    checkpoint.pt             everything that an interrupted population resumes from, in its first member's folder
    checkpoint.previous.pt    the checkpoint before, used if checkpoint.pt is damaged

Files are replaced atomically: a reader, or a crash, finds the old content or the new. Only run.log and
metrics.jsonl are appended to; metrics.jsonl is rewritten from the checkpoint, which contains the epochs
too, when a run is resumed and when it ends. Results and checkpoints have a checksum (store/checksums.py). A process
that has lost a run to another process cannot write to it any more: every writer raises InUse. On a full disk every
writer raises DiskFull, and what was recorded before remains.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from equisep.config import (
    PROTOCOL,
    Config,
    ConfigError,
    Measure,
    config_hash,
    identity_of_measure,
    measure_id,
    to_plain,
)
from equisep.measures import Epoch, LayerRecord, Measurement, RobustnessResults
from equisep.store.checkpoint import Checkpoints
from equisep.store.checksums import open_lines, open_tensors, seal_line, seal_tensors
from equisep.store.errors import DamagedRun, InUse, LaterProtocol, room_for
from equisep.store.folder import RunFolder
from equisep.store.serialization import (
    CONFIG,
    EPOCHS,
    STATE,
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

# libyaml's loader, if PyYAML was built with it, is five times as fast; a store has thousands of configs.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FINISHED = ("done", "diverged")


class Run(RunFolder):
    """The folder of one run. Readers raise DamagedRun, with file and remedy, writers InUse if the run was lost."""

    def __init__(self, results: Path, identity: str) -> None:
        super().__init__(results, identity)
        self._checkpoints = Checkpoints(self)
        # Size and CRC-32 of metrics.jsonl after this object's last write.
        self._metrics = (0, 0)

    def create(self, config: Config, data: Mapping[str, str | int]) -> None:
        """Create the folder with its config.yaml, if there is none yet. data: digests, source, sizes."""
        with room_for(self.path):
            (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
            (self.path / "measures").mkdir(exist_ok=True)
        if not (self.path / "config.yaml").exists():
            content = to_plain(config) | {"data": dict(data), "protocol": PROTOCOL, "science": config_hash(config)}
            self.write("config.yaml", yaml.safe_dump(content, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """Return config.yaml as plain containers."""

        def parse(content: bytes) -> dict[str, Any]:
            config = yaml.load(content, Loader=_SAFE_LOADER)
            CONFIG.check(config)
            refuse_later_protocol(self.id, config["protocol"])
            return dict(config)

        return self.read("config.yaml", parse, self._remove_run)

    def state(self) -> dict[str, Any]:
        """Return state.json, or {"state": "new"} without one; a running run without an owner is interrupted."""
        if not (self.path / "state.json").exists():
            return {"state": "new"}

        def parse(content: bytes) -> dict[str, Any]:
            state: dict[str, Any] = json.loads(content)
            STATE.check(state)
            if state["state"] == "running" and self.owner() is None:
                state["state"] = "interrupted"
            return state

        return self.read("state.json", parse, self._remove_run)

    def write_state(self, state: str, **facts: Any) -> None:
        """Record the state and facts; later states keep the facts of the running state.

        The state of a finished run includes the number of its epochs, which a reader compares.
        """
        previous = {} if state == "running" else self.state()
        facts |= {"epochs": len(self.epochs())} if state in FINISHED else {}
        self.write("state.json", json.dumps(previous | {"state": state} | facts, indent=1).encode())

    @property
    def finished(self) -> bool:
        """Whether training has ended, by reaching the last epoch or by divergence."""
        return self.state()["state"] in FINISHED

    def mark_submitted(self, submitted: Submitted) -> None:
        """Record the SLURM task that the run was submitted to."""
        self.write("submitted.json", json.dumps(asdict(submitted)).encode())

    def submitted(self) -> Submitted | None:
        """Return the SLURM task that the run was last submitted to, even if it has ended; None if never submitted."""
        try:
            return self.read("submitted.json", SUBMITTED.parse, "submit the run again")
        except DamagedRun:
            return None

    def population(self) -> tuple[str, ...]:
        """Return the ids of the runs that this one resumes with, itself included; empty without a checkpoint.

        Raises DamagedRun if one of them has been removed.
        """
        state = self.state()
        members = tuple(state.get("population", ()))
        if state["state"] == "done" or not members:
            return ()
        leader, *others = (Run(self.path.parents[1], member) for member in members)
        checkpoints = leader._checkpoints.names()
        if not checkpoints or tuple(leader.state().get("population", ())) != members:
            return ()
        for run in others:
            if tuple(run.state().get("population", ())) != members:
                named = " and ".join(str(leader.path / name) for name in checkpoints)
                raise DamagedRun(f"run {run.id} of this population is missing: remove {named} to train it again")
        return members

    def append_epoch(self, epoch: Epoch) -> None:
        """Add an epoch to metrics.jsonl."""
        self.confirm_held()
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if self._metrics[0] != size:
            self._metrics = (size, zlib.crc32(path.read_bytes()))
        line, running = seal_line(json.dumps(asdict(epoch)), self._metrics[1])
        self.add("metrics.jsonl", line)
        self._metrics = (size + len(line), running)

    def epochs(self) -> list[Epoch]:
        """Return the recorded epochs, without an incomplete last line."""
        if not (self.path / "metrics.jsonl").exists():
            return []

        def parse(content: bytes) -> list[Epoch]:
            # Parsing one array takes a fifth of the time of parsing lines.
            epochs = EPOCHS.parse(f"[{open_lines(content).replace(chr(10), ',')}]")
            if [epoch.epoch for epoch in epochs] != list(range(1, len(epochs) + 1)):
                raise ValueError("epochs are missing or repeated")
            return epochs

        return self.read("metrics.jsonl", parse, self._remove_run)

    def save_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Rewrite metrics.jsonl."""
        lines, running = [], 0
        for epoch in epochs:
            line, running = seal_line(json.dumps(asdict(epoch)), running)
            lines.append(line)
        content = b"".join(lines)
        self.write("metrics.jsonl", content)
        self._metrics = (len(content), running)

    def save_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Store the weights and buffers of an epoch."""
        self.write(f"snapshots/epoch_{epoch:04d}.safetensors", seal_tensors(weights))

    def load_snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights and buffers of an epoch, on the CPU; raises DamagedRun if they are missing."""
        return self.read(f"snapshots/epoch_{epoch:04d}.safetensors", open_tensors, self._remove_run)

    def remove_snapshot(self, epoch: int) -> None:
        """Remove the weights of an epoch, which are not finite."""
        self.confirm_held()
        (self.path / f"snapshots/epoch_{epoch:04d}.safetensors").unlink()

    def discard_results(self) -> None:
        """Remove what a training from the start may not repeat of an earlier one, and its checkpoints."""
        self.confirm_held()
        for pattern in ("checkpoint*.pt", "snapshots/*.safetensors", "measures/*.json", "robustness/*.json"):
            for path in self.path.glob(pattern):
                path.unlink()

    def discard_results_after(self, epoch: int) -> None:
        """Remove the snapshots of later epochs and their evaluations, which a resumed training writes again."""
        later = [stored for stored in self.snapshot_epochs() if stored > epoch]
        for name, measurement in self.load_measures().items() if later else ():
            kept = [record for record in measurement.records if record.epoch <= epoch]
            if len(kept) < len(measurement.records):
                content = measurement_to_json(measurement.settings, kept)
                self.write(f"measures/{name}.json", content.encode())
        # Robustness is that of the last epoch.
        for path in self.path.glob("robustness/*.json") if later else ():
            path.unlink()
        for stored in later:
            self.remove_snapshot(stored)

    def snapshot_epochs(self) -> list[int]:
        """Return the epochs whose weights are stored, ascending."""
        return sorted(int(path.stem.removeprefix("epoch_")) for path in self.path.glob("snapshots/epoch_*.safetensors"))

    def save_measure(self, measure: Measure, records: list[LayerRecord]) -> None:
        """Write a measure with all its records."""
        content = measurement_to_json(identity_of_measure(measure), records)
        self.write(f"measures/{measure_id(measure)}.json", content.encode())

    def load_measure(self, measure: Measure) -> list[LayerRecord]:
        """Return the records of a measure so far, ordered by epoch and split."""
        name = f"{measure_id(measure)}.json"
        return list(self._load_measure(name).records) if (self.path / "measures" / name).exists() else []

    def load_measures(self) -> dict[str, Measurement]:
        """Return every measure of the run, by measure id."""
        return {path.stem: self._load_measure(path.name) for path in sorted(self.path.glob("measures/*.json"))}

    def _load_measure(self, name: str) -> Measurement:
        return self.read(f"measures/{name}", measurement_from_json, "remove the file to measure the run again")

    def save_robustness(self, identity: str, robustness: RobustnessResults) -> None:
        """Write a robustness evaluation of the trained network under its id."""
        self.confirm_held()
        with room_for(self.path / "robustness"):
            (self.path / "robustness").mkdir(exist_ok=True)
        self.write(f"robustness/{identity}.json", robustness_to_json(robustness).encode())

    def has_robustness(self, identity: str) -> bool:
        """Whether the robustness evaluation with this id is recorded."""
        return (self.path / "robustness" / f"{identity}.json").exists()

    def load_robustness(self) -> dict[str, RobustnessResults]:
        """Return every robustness evaluation of the trained network, by id."""
        remedy = "remove the file to evaluate robustness again"
        files = sorted(self.path.glob("robustness/*.json"))
        return {file.stem: self.read(f"robustness/{file.name}", robustness_from_json, remedy) for file in files}

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, and keep the one before."""
        self._checkpoints.save(state)

    def load_checkpoint(self, device: torch.device, say: Callable[[str], None] | None = None) -> dict[str, Any] | None:
        """Return the checkpoint on a device, or the one before if it is damaged; None if there is none.

        say: told of a damaged one, as run.log is. Raises DamagedRun if there is no other.
        """
        return self._checkpoints.load(device, say)

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed just after the end of the training has left: its lock, checkpoints."""
        if not ((self.path / "owner.json").exists() or self._checkpoints.names()) or self.owner() is not None:
            return
        # The other members of a population may still need its checkpoint.
        members = [Run(self.path.parents[1], member) for member in self.state().get("population", ())]
        if self.finished and all(run.finished for run in members):
            # Another process may do the same.
            with suppress(InUse), self.held():
                self._checkpoints.remove()

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint and the one before, after training has ended."""
        self._checkpoints.remove()

    @property
    def _remove_run(self) -> str:
        return f"remove the folder {self.path} to train the run again"


def refuse_later_protocol(run: str, protocol: object) -> None:
    """Raise LaterProtocol for a run that a later version of the package recorded."""
    if isinstance(protocol, int) and protocol > PROTOCOL:
        raise LaterProtocol(
            f"run {run} was recorded under protocol {protocol}, but this version of equisep knows protocols up to "
            f"{PROTOCOL}: update equisep or use another results folder"
        )


def all_runs(results: Path) -> Iterator[Run]:
    """Yield every run of the store, ordered by id."""
    return (Run(results, folder.name) for folder in sorted(results.glob("runs/*")) if folder.is_dir())


def find_run(results: Path, word: str) -> Run:
    """Return the run of a store with this id, or the only one whose id begins so; for "last" the one written to last.

    Raises ConfigError where there is none, or several.
    """
    runs = list(all_runs(results))
    if not runs:
        raise ConfigError(f"run {word}: no runs under {results}/runs; train one, or name its folder by results=FOLDER")
    if not word:
        raise ConfigError("run: its id, the beginning of it, or last is missing")
    if word == "last":
        runs = [max(runs, key=lambda run: max((path.stat().st_mtime for path in run.path.iterdir()), default=0.0))]
    else:
        runs = [run for run in runs if run.id.startswith(word)]
    if len(runs) == 1:
        return runs[0]
    listed = ", ".join(run.id for run in runs[:5]) + (", …" if len(runs) > 5 else "")
    problem = f"{len(runs)} runs begin so ({listed}); add digits" if runs else f"no such run in {results}/runs"
    raise ConfigError(f"run {word}: {problem}; equisep status lists all")
