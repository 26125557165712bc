"""Where the time of a native training step goes, per operation: ``python -m benchmarks.operations``.

The kernels are compiled with timers around each operation. One network trains on one core; the table has microseconds
per step, the shares of the step, and the rate of the matrix products relative to that of a float32 2048³ product.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import torch

from benchmarks.steps import DEPTHS, STEPS_PER_EPOCH, floating_point_operations, gemm_rate, members_of
from equisep.config import compose_config
from equisep.data import load_data
from equisep.training import Kernels, NativeTraining
from equisep.training.kernels import compile_command

# In the order of the enumeration in native.cpp.
OPERATIONS = {
    "gather": "images gathered and transposed",
    "forward": "products forward, W·y",
    "statistics": "batch statistics",
    "output": "normalised and rectified output",
    "loss": "loss and its derivative",
    "derivative": "derivative of normalisation and rectifier",
    "transpose": "outputs computed again and transposed",
    "weight": "products for the weights' gradients, ∂z·yᵀ",
    "input": "products for the inputs' derivatives, Wᵀ·∂z",
    "update": "Adam",
}
PRODUCTS = ("forward", "weight", "input")
REPEATS = 15
EPOCHS = 5


def main() -> None:
    """Print the table and write it to results/bench/operations.csv."""
    torch.set_num_threads(1)
    table = pd.DataFrame({f"depth {depth}": measure(depth) for depth in DEPTHS})
    folder = Path(os.environ.get("EQUISEP_RESULTS", "results")) / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "operations.csv", index_label="operation")
    print(table.round(2).to_string())


def measure(depth: int) -> pd.Series:
    """Return microseconds per step by operation, in the fastest of the repeats, and what they amount to."""
    config = compose_config([f"architecture.depth={depth}", "optimizer=adam"])
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "native.so")
        subprocess.run([*compile_command(Kernels.FEED_FORWARD), "-DPROFILE", "-o", str(library)], check=True)
        kernels = ctypes.CDLL(str(library))
    kernels.operation_seconds.restype = ctypes.POINTER(ctypes.c_double * len(OPERATIONS))
    timers = kernels.operation_seconds().contents
    trainer = NativeTraining(members_of(config, load_data(config.dataset), 1), config.training, kernels=kernels)
    trainer.run_epoch()
    repeats = []
    for _ in range(REPEATS):
        before = list(timers)
        for _ in range(EPOCHS):
            trainer.run_epoch()
        steps = EPOCHS * STEPS_PER_EPOCH
        repeats.append([(now - then) / steps * 1e6 for now, then in zip(timers, before, strict=True)])
    rate = gemm_rate(1)
    best = pd.Series(min(repeats, key=sum), index=list(OPERATIONS.values()))
    work = floating_point_operations(depth) / STEPS_PER_EPOCH
    products = best[[OPERATIONS[name] for name in PRODUCTS]].sum() / 1e6
    summary = {"all, µs": best.sum(), "products, share of the time": products * 1e6 / best.sum()}
    summary |= {"GFLOP/s of 2048³": rate / 1e9, "products, share of that": work / products / rate}
    return pd.concat([best, pd.Series(summary | {"step, share of that": work / (best.sum() / 1e6) / rate})])


if __name__ == "__main__":
    main()
