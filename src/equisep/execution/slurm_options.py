"""The resources of a SLURM task, checked before submission, and as options of sbatch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from equisep.config import Config, ConfigError, require, require_integer

# The options of sbatch that each setting stands for, and those that the launcher sets itself.
_OPTIONS_OF_SETTINGS = {
    "hydra.launcher.account": ("account",),
    "hydra.launcher.cpus": ("cpus-per-task",),
    "hydra.launcher.gpus": ("gpus", "gpus-per-task", "gpus-per-node", "gres"),
    "hydra.launcher.max_members or hydra.launcher.parallel": ("array",),
    "hydra.launcher.memory": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "hydra.launcher.minutes": ("time",),
    "hydra.launcher.notice": ("signal",),
    "hydra.launcher.partition": ("partition",),
    "hydra.launcher.qos": ("qos",),
    "hydra.launcher.setup": ("wrap",),
    "hydra.launcher.wait": ("wait",),
    "hydra/launcher=debug": ("test-only",),
    "results": ("chdir", "error", "output"),
}
SETTING_OF_OPTION = {option: setting for setting, options in _OPTIONS_OF_SETTINGS.items() for option in options}
OPTIONS_OF_LAUNCHER = (
    *("clusters", "export", "job-name", "nodes", "ntasks", "ntasks-per-node"),
    *("no-requeue", "open-mode", "parsable", "quiet", "requeue"),
)


@dataclass(frozen=True)
class Resources:
    """The resources of a task of the job array; conf/hydra/launcher/slurm.yaml describes the fields.

    Raises ConfigError for resources that SLURM cannot grant or a task, with one population on one GPU, cannot use.
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
        for name in ("partition", "account", "qos"):
            value = getattr(self, name)
            _require(value is None or _is_text(value), name, value, "must be a name or null")
        for name in ("modules", "setup"):
            value = getattr(self, name)
            _require(isinstance(value, Sequence) and not isinstance(value, str), name, value, "must be a list")
            _require(all(map(_is_text, value)), name, list(value), "must contain text, none of it empty")
        _require(isinstance(self.options, Mapping), "options", self.options, "must map names to values")
        for name, least in (("gpus", 0), ("cpus", 1), ("minutes", 1), ("parallel", 1), ("notice", 1)):
            require_integer(f"hydra.launcher.{name}", getattr(self, name), least)
        _require(_is_memory(self.memory), "memory", self.memory, "must be at least 0.1 GB")
        if self.gpu_memory is not None:
            remedy = "must be the memory of a task's GPU in GB, at least 0.1, or null"
            _require(_is_memory(self.gpu_memory), "gpu_memory", self.gpu_memory, remedy)
        remedy = "a task trains one population on one GPU; set 1, and hydra.launcher.parallel for the number of tasks"
        _require(self.gpus <= 1, "gpus", self.gpus, remedy)
        limit = 60 * self.minutes
        _require(self.notice < limit, "notice", self.notice, f"must be less than a task's {limit} seconds")
        for option, value in self.options.items():
            name = str(option).replace("_", "-")
            if name in SETTING_OF_OPTION:
                raise ConfigError(f"hydra.launcher.options.{option}: reserved; set {SETTING_OF_OPTION[name]} instead")
            if name in OPTIONS_OF_LAUNCHER:
                raise ConfigError(f"hydra.launcher.options.{option}: reserved; the launcher sets it itself")
            given = value is not None and value is not False
            _require(given, f"options.{option}", value, "must be a value or true; omit an option that is not needed")

    def gpu_bytes(self) -> float:
        """Return the bytes that a task's population must fit into: gpu_memory, else this machine's, else no limit."""
        if self.gpus and self.gpu_memory is not None:
            return self.gpu_memory * 1e9
        if self.gpus and torch.cuda.is_available():
            return float(torch.cuda.mem_get_info()[0])
        return math.inf

    def sbatch(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters for a submission with this name."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        return {option: value for option, value in named.items() if value is not None} | {
            "job_name": name,
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}MB",
            "gpus_per_node": self.gpus or None,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.notice,
            "setup": [*(f"module load {module}" for module in self.modules), *self.setup],
            "additional_parameters": {"requeue": True, **self.options},
        }


def _require(valid: bool, name: str, value: object, remedy: str) -> None:
    require(valid, f"hydra.launcher.{name}", value, remedy)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_memory(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.1 <= value < math.inf


def refuse_idle_or_missing(config: Config, resources: Resources) -> None:
    """Raise ConfigError if a task would lack resources that its runs need, or leave resources idle."""
    device, threads = config.compute.device, config.compute.threads
    missing = device.startswith("cuda") and not resources.gpus
    require(not missing, "compute.device", device, "the task has no GPU; set hydra.launcher.gpus=1")
    idle = device == "cpu" and resources.gpus
    _require(not idle, "gpus", resources.gpus, "idle with compute.device=cpu; set hydra.launcher.gpus=0")
    remedy = f"a task has {resources.cpus} cores; set hydra.launcher.cpus={threads}"
    require(threads <= resources.cpus, "compute.threads", threads, remedy)
