"""The store of runs: identity, folder, state, records, snapshots, measures, checkpoint; written atomically.

results/runs/<id>/ holds

    config.yaml               the configuration, all values filled in, and the digest of the data
    state.json                running, done, diverged or failed; owner; machine and versions
    metrics.jsonl             a line an epoch: loss, accuracy, learning rate
    snapshots/epoch_E.safetensors   weights and buffers after E epochs
    measures/<id>.json        a measure's config and its records, one per snapshot and split
    checkpoint.pt             all that an interrupted training goes on from; removed when it ends
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from equisep.schema import Config, Measure, identity_of_measure, identity_of_science, to_plain
from equisep.training import Epoch

if TYPE_CHECKING:
    import pandas as pd

# Raised whenever a change makes equal configurations give other results.
PROTOCOL = 1

FINISHED = ("done", "diverged")


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


def run_id(config: Config, data_digest: str) -> str:
    """Return the name of the run a config describes: 16 hex digits over science, training tensors and protocol."""
    return _hash({"science": science_id(config), "data": data_digest, "protocol": PROTOCOL})


def science_id(config: Config) -> str:
    """Return a name of the science of a config alone, which needs no data to be known."""
    return _hash(identity_of_science(config))


def measure_id(measure: Measure) -> str:
    """Return the name of a measure beneath a run: 8 hex digits over its config."""
    return _hash(identity_of_measure(measure))[:8]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Run:
    """The folder of one run; every file is written whole or not at all."""

    def __init__(self, results: Path, identity: str) -> None:
        self.id = identity
        self.path = results / "runs" / identity

    def create(self, config: Config, data_digest: str, data_source: str) -> None:
        """Make the folder with its config.yaml; an existing one keeps what it has."""
        (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
        (self.path / "measures").mkdir(exist_ok=True)
        if not (self.path / "config.yaml").exists():
            content = to_plain(config) | {
                "data": {"digest": data_digest, "source": data_source},
                "protocol": PROTOCOL,
                "science": science_id(config),
            }
            write_atomically(self.path / "config.yaml", yaml.safe_dump(content, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """Return config.yaml as plain containers."""
        content = yaml.safe_load((self.path / "config.yaml").read_text())
        assert isinstance(content, dict)
        return content

    def science(self) -> str:
        """Return the name of the run's science, see :func:`science_id`."""
        return str(self.config()["science"])

    def state(self) -> dict[str, Any]:
        """Return state.json, {"state": "new"} where there is none; a running one whose owner died is "interrupted"."""
        try:
            state: dict[str, Any] = json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return {"state": "new"}
        if state["state"] == "running" and not _alive(state["owner"]):
            state["state"] = "interrupted"
        return state

    def write_state(self, state: str, **facts: Any) -> None:
        """Record the state with this process as owner, and facts; those of the running state stay with later ones."""
        before = {} if state == "running" else self.state()
        content = before | {"state": state, "owner": _owner()} | facts
        write_atomically(self.path / "state.json", json.dumps(content, indent=1).encode())

    @property
    def finished(self) -> bool:
        """Whether training has ended, by reaching the last epoch or by divergence."""
        return self.state()["state"] in FINISHED

    def append_epoch(self, epoch: Epoch) -> None:
        """Add an epoch to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")

    def epochs(self) -> list[Epoch]:
        """Return the recorded epochs; a last line cut off by a kill is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [Epoch(**json.loads(line)) for line in lines if line.endswith("\n")]

    def forget_epochs_after(self, epoch: int) -> None:
        """Drop the records of epochs that are to be trained again."""
        kept = "".join(json.dumps(asdict(record)) + "\n" for record in self.epochs() if record.epoch <= epoch)
        write_atomically(self.path / "metrics.jsonl", kept.encode())

    def save_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights and buffers of an epoch."""
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(self._snapshot(epoch), safetensors.torch.save(content))

    def load_snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights and buffers of an epoch, on the CPU; raises FileNotFoundError if it was not kept."""
        return safetensors.torch.load_file(self._snapshot(epoch))

    def snapshot_epochs(self) -> list[int]:
        """Return the epochs whose weights are kept, ascending."""
        return sorted(int(path.stem.removeprefix("epoch_")) for path in self.path.glob("snapshots/epoch_*.safetensors"))

    def _snapshot(self, epoch: int) -> Path:
        return self.path / "snapshots" / f"epoch_{epoch:04d}.safetensors"

    def save_measure(self, measure: Measure, records: list[LayerRecord]) -> None:
        """Write a measure with all its records."""
        ordered = sorted(records, key=lambda record: (record.epoch, record.split))
        content = {"measure": identity_of_measure(measure), "records": [asdict(record) for record in ordered]}
        write_atomically(self.path / "measures" / f"{measure_id(measure)}.json", json.dumps(content).encode())

    def load_measure(self, measure: Measure) -> list[LayerRecord]:
        """Return the records of a measure so far, ordered by epoch and split."""
        path = self.path / "measures" / f"{measure_id(measure)}.json"
        if not path.exists():
            return []
        records = json.loads(path.read_text())["records"]
        sequences = ("layers", "fuzziness", "rank")
        return [LayerRecord(**(record | {name: tuple(record[name]) for name in sequences})) for record in records]

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """Return the checkpoint on a device, or None where there is none."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a training that has ended."""
        (self.path / "checkpoint.pt").unlink(missing_ok=True)


def all_runs(results: Path) -> Iterator[Run]:
    """Yield every run of the store, by name."""
    for config in sorted(results.glob("runs/*/config.yaml")):
        yield Run(results, config.parent.name)


def status_table(results: Path) -> pd.DataFrame:
    """Return a row per run: run, state, epoch, epochs, experiment and what describes the run."""
    import pandas as pd

    rows = []
    for run in all_runs(results):
        config, state, epochs = run.config(), run.state(), run.epochs()
        architecture, optimizer = config["architecture"], config["optimizer"]
        rows.append(
            {
                "run": run.id,
                "state": state["state"],
                "epoch": epochs[-1].epoch if epochs else 0,
                "of": config["training"]["epochs"],
                "dataset": f"{config['dataset']['name']} {config['dataset']['size']}",
                "architecture": " ".join(f"{key}={value}" for key, value in architecture.items()),
                "optimizer": f"{optimizer['kind']} {optimizer['learning_rate']:g}",
                "seed": config["seed"],
                "experiment": config["experiment"] or "",
            }
        )
    return pd.DataFrame(rows)


def machine_facts(device: torch.device) -> dict[str, str | int]:
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash meets the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _owner() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _alive(owner: Mapping[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
