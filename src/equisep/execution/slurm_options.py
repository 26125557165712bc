"""What a SLURM task is given, checked before anything is submitted, and as options of sbatch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equisep.config import Config, ConfigError, require_integer

# Options of sbatch that a field sets, and those that the launcher sets itself.
OPTIONS_OF_FIELDS = {
    "account": "hydra.launcher.account",
    "array": "hydra.launcher.max_members or hydra.launcher.parallel",
    "chdir": "results",
    "cpus-per-task": "hydra.launcher.cpus",
    "error": "results",
    "gpus": "hydra.launcher.gpus",
    "gpus-per-task": "hydra.launcher.gpus",
    "gres": "hydra.launcher.gpus",
    "gpus-per-node": "hydra.launcher.gpus",
    "mem": "hydra.launcher.memory",
    "mem-per-cpu": "hydra.launcher.memory",
    "mem-per-gpu": "hydra.launcher.memory",
    "output": "results",
    "partition": "hydra.launcher.partition",
    "qos": "hydra.launcher.qos",
    "signal": "hydra.launcher.notice",
    "test-only": "hydra/launcher=debug",
    "time": "hydra.launcher.minutes",
    "wait": "hydra.launcher.wait",
    "wrap": "hydra.launcher.setup",
}
OPTIONS_OF_LAUNCHER = (
    *("clusters", "export", "job-name", "nodes", "ntasks", "ntasks-per-node"),
    *("no-requeue", "open-mode", "parsable", "quiet", "requeue"),
)


@dataclass(frozen=True)
class Resources:
    """What a task of the array is given; the fields of conf/hydra/launcher/slurm.yaml, which describes them.

    Raises ConfigError for what SLURM could not give, or a task could not use: it trains one population, on one GPU.
    """

    partition: str | None
    account: str | None
    qos: str | None
    gpus: int
    gpu_memory: float | None
    cpus: int
    memory: float
    minutes: int
    parallel: int
    notice: int
    modules: Sequence[str]
    setup: Sequence[str]
    options: Mapping[str, object]

    def __post_init__(self) -> None:
        self._refuse_texts()
        self._refuse_numbers()
        for option, value in self.options.items():
            name = str(option).replace("_", "-")
            if name in OPTIONS_OF_FIELDS:
                raise ConfigError(f"hydra.launcher.options.{option}: reserved; set {OPTIONS_OF_FIELDS[name]} instead")
            if name in OPTIONS_OF_LAUNCHER:
                raise ConfigError(f"hydra.launcher.options.{option}: reserved; the launcher sets it itself")
            if value is None or value is False:
                raise ConfigError(f"hydra.launcher.options.{option}={value}: give a value, or true, or leave it out")

    def _refuse_texts(self) -> None:
        for name in ("partition", "account", "qos"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"hydra.launcher.{name}={value}: give a name, or null")
        for name in ("modules", "setup"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ConfigError(f"hydra.launcher.{name}={value}: give a list")
            if not all(isinstance(line, str) and line.strip() for line in value):
                raise ConfigError(f"hydra.launcher.{name}={list(value)}: give text, none of it empty")
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"hydra.launcher.options={self.options}: give names with values")

    def _refuse_numbers(self) -> None:
        for name, least in (("gpus", 0), ("cpus", 1), ("minutes", 1), ("parallel", 1), ("notice", 1)):
            require_integer(f"hydra.launcher.{name}", getattr(self, name), least)
        _refuse_unless_memory("memory", self.memory, "at least 0.1 GB", 0.1)
        if self.gpu_memory is not None:
            _refuse_unless_memory("gpu_memory", self.gpu_memory, "the GB of a task's GPU, or null", 0.1)
        if self.gpus > 1:
            raise ConfigError(
                f"hydra.launcher.gpus={self.gpus}: a task trains one population on one GPU; "
                "give 1, and more GPUs are used by more tasks (hydra.launcher.parallel)"
            )
        if self.notice >= 60 * self.minutes:
            limit = 60 * self.minutes
            raise ConfigError(f"hydra.launcher.notice={self.notice}: give less than a task's {limit} seconds")

    def gpu_bytes(self) -> float:
        """Return the memory that a task's population has to fit into: what is told, or this machine's, or no bound."""
        if self.gpus and self.gpu_memory is not None:
            return self.gpu_memory * 1e9
        if self.gpus and torch.cuda.is_available():
            return float(torch.cuda.mem_get_info()[0])
        return math.inf

    def sbatch(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters for a submission of a name."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        lines = [*(f"module load {module}" for module in self.modules), *self.setup]
        # A task that SLURM requeues by itself appends to its log.
        chosen = {name: value for name, value in named.items() if value is not None}
        return chosen | {
            "job_name": name,
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}MB",
            "gpus_per_node": self.gpus or None,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.notice,
            "setup": lines,
            "additional_parameters": {"requeue": True, **self.options},
        }


def _refuse_unless_memory(name: str, value: object, wanted: str, least: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= float(value) < math.inf):  # type: ignore[arg-type]
        raise ConfigError(f"hydra.launcher.{name}={value}: give {wanted}")


def refuse_idle_or_missing(config: Config, resources: Resources) -> None:
    """Raise ConfigError where a task would lack what its runs want, or leave idle what it is given."""
    device, threads = config.compute.device, config.compute.threads
    if device.startswith("cuda") and not resources.gpus:
        raise ConfigError(f"compute.device={device}: its task has no GPU, give hydra.launcher.gpus=1")
    if device == "cpu" and resources.gpus:
        raise ConfigError(f"hydra.launcher.gpus={resources.gpus}: idle with compute.device=cpu, give 0")
    if threads > resources.cpus:
        raise ConfigError(f"compute.threads={threads}: a task has hydra.launcher.cpus={resources.cpus}, give as many")
