"""The device and the arithmetic of a config."""

import os

import torch

from equisep.config import Compute, ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device that a config names; raises ConfigError if this machine does not have it."""
    device = named_device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device={name}: not on this machine ({reason}); set cpu or auto") from None
    return device


def named_device(name: str) -> torch.device:
    """Return the device that a config names, available or not; raises ConfigError for an unknown name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"compute.device={name}: no such device; choose one of auto, cpu, cuda") from None


def accelerator_name(device: torch.device) -> str | None:
    """Return the name of a GPU, None for the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def set_arithmetic(compute: Compute, device: torch.device) -> None:
    """Set the execution settings of this process that the bits of a result depend on: threads, TF32, determinism."""
    torch.set_num_threads(compute.threads)
    if device.type == "cuda":
        # Read when cuBLAS starts, which needs it for deterministic algorithms.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = compute.tf32
        torch.use_deterministic_algorithms(compute.deterministic)
