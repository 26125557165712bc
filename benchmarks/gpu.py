"""Training steps on an NVIDIA GPU: ``make bench-gpu``; one line where torch finds none.

Populations of 20 and 500 feed-forward networks of depth 4, 8 and 20 (width 100, Adam, compiled kernels), and the
convolutional networks at the paper's size, on real Fashion-MNIST. Rows of results/bench/gpu.csv, one per repeat:

    network, members   what was trained together
    ms_per_step        wall time in ms, per network and step of batch 128, over a whole epoch with data access, the
                       partial batch of 104 and the optimizer
    rate               GFLOP/s of the matrix products and convolutions, three times those of a forward pass
    share              rate over that of the best float32 product of 8192² matrices in the same repeat, without TF32
    memory             GB, the peak of the device's memory
    hardware           name of the GPU, and versions of torch, CUDA and cuDNN
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from equisep.config import compose_config
from equisep.data import Split, load_data
from equisep.execution.device import set_arithmetic
from equisep.networks import build_network, forward_operations, outline_network
from equisep.training import Member, Population, can_compile

FEED_FORWARD = [("fnn", depth, members) for depth in (4, 8, 20) for members in (20, 500)]
CONVOLUTIONAL = [(name, None, 1) for name in ("vgg13", "alexnet", "resnet_two_layer", "resnet_three_layer", "densenet")]


def gemm_rate(device: torch.device, size: int) -> float:
    """Return the best rate of five float32 products of size² matrices, in operations per second."""
    one, other = torch.randn(2, size, size, device=device)
    return 2 * size**3 / min(_seconds(device, lambda: one @ other) for _ in range(6))


def measure(
    device: torch.device, name: str, depth: int | None, members: int, repeats: int, size: int
) -> list[dict[str, object]]:
    """Return a row per repeat for networks of one architecture. size: of the matrices of the reference product."""
    overrides = [f"architecture={name}", "optimizer=adam", "optimizer.learning_rate=1e-3"]
    overrides += [f"architecture.depth={depth}"] if depth else ["dataset=fashion_mnist_32x32"]
    config = compose_config(overrides)
    set_arithmetic(config.compute, device)
    train = load_data(config.dataset).train
    split = Split(train.inputs.to(device), train.labels.to(device))
    shape = tuple(train.inputs.shape[1:])
    networks = [build_network(config.architecture, shape, 10, seed).to(device) for seed in range(members)]
    # An epoch costs three forward passes of each image: one forward, two for the derivatives.
    outline = outline_network(config.architecture, shape, 10)
    operations = 3 * len(train.labels) * members * forward_operations(outline, shape)
    population = Population(
        [Member(network, split, config.optimizer, seed) for seed, network in enumerate(networks)],
        config.training,
        compiled=bool(depth) and can_compile(device),
    )
    steps = -(-len(train.labels) // config.training.batch_size)
    # The first epochs compile the kernels and choose algorithms.
    for _ in range(2):
        population.run_epoch()
    rows: list[dict[str, object]] = []
    for repeat in range(repeats):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = _seconds(device, population.run_epoch)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        rate = operations / seconds
        row = {"network": name, "depth": depth, "members": members, "repeat": repeat}
        row |= {"ms_per_step": 1e3 * seconds / steps / members, "rate": rate / 1e9}
        rows.append(row | {"share": rate / gemm_rate(device, size), "memory": peak / 1e9})
    return rows


def _seconds(device: torch.device, act: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - clock


def main() -> None:
    """Measure, print medians with their ranges, and write results/bench/gpu.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(os.environ.get("EQUISEP_RESULTS", "results")))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no NVIDIA GPU here that torch finds: nothing measured")
        return
    device = torch.device("cuda")
    hardware = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
    hardware += f"cuDNN {torch.backends.cudnn.version()}"
    print(hardware)
    rows = []
    for name, depth, members in [*FEED_FORWARD, *CONVOLUTIONAL]:
        rows += measure(device, name, depth, members, options.repeats, 8192)
        torch.cuda.empty_cache()
    table = pd.DataFrame(rows).assign(hardware=hardware)
    folder = options.results / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "gpu.csv", index=False)
    columns = ["ms_per_step", "rate", "share", "memory"]
    grouped = table.groupby(["network", "depth", "members"], dropna=False, sort=False)[columns]
    print(grouped.agg(["median", "min", "max"]).round(3).to_string())


if __name__ == "__main__":
    main()
