"""The cost of a training step of each convolutional family: the native engine against the plain module.

``make bench`` runs this. The networks are those of ``make reproduce`` on CPUs, and wider ones, trained on real data by
Adam over whole epochs. The engines alternate within one run, so that drifts of the machine affect them equally. Each
repeat is a row of results/bench/convolutions.csv:

    network      architecture and width multiplier
    engine       module (plain nn.Module, autograd, oneDNN's convolutions) or native
    threads      cores used
    ms_per_step  wall time in ms
    ratio        time of the plain module on one core in the same repeat, over this one
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks.steps import STEPS_PER_EPOCH, members_of
from equisep.config import compose_config
from equisep.data import load_data
from equisep.process import prepare_process
from equisep.training import Population, Trainer, native_trainer

NETWORKS = {
    "resnet_two_layer": 1.0,
    "resnet_three_layer": 1.0,
    "resnet_mixed": 1.0,
    "vgg13": 0.125,
    "alexnet": 0.125,
    "densenet": 0.5,
}
WIDER = [("vgg13", 0.25), ("alexnet", 0.25), ("densenet", 1.0)]


def measure(architecture: str, width: float, cores: int, repeats: int) -> list[dict[str, object]]:
    """Return the rows of a network: each repeat times an epoch of every engine in turn."""
    overrides = [f"architecture={architecture}", "dataset=fashion_mnist_32x32", "optimizer.learning_rate=1e-3"]
    if not architecture.startswith("resnet"):
        overrides.append(f"architecture.width_multiplier={width}")
    config = compose_config(overrides)
    data = load_data(config.dataset)
    cases: dict[tuple[str, int], Trainer] = {}
    for threads in sorted({1, cores}):
        cases["module", threads] = Population(members_of(config, data, 1), config.training)
    cases["native", 1] = native_trainer(members_of(config, data, 1), config.training)
    rows = []
    for repeat in range(repeats + 1):
        times = {}
        for (engine, threads), trainer in cases.items():
            torch.set_num_threads(threads)
            clock = time.perf_counter()
            trainer.run_epoch()
            times[engine, threads] = (time.perf_counter() - clock) / STEPS_PER_EPOCH * 1e3
        # The first epoch allocates memory.
        rows += [
            {"network": f"{architecture} × {width:g}", "engine": engine, "threads": threads, "ms_per_step": spent}
            | {"ratio": times["module", 1] / spent}
            for (engine, threads), spent in times.items()
            if repeat
        ]
    return rows


def main() -> None:
    """Measure, print medians with their spread, and write results/bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=Path(os.environ.get("EQUISEP_RESULTS", "results")))
    options = parser.parse_args()
    folder = options.results / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    prepare_process()
    rows = []
    for architecture, width in [*NETWORKS.items(), *WIDER]:
        rows += measure(architecture, width, options.cores, options.repeats)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "convolutions.csv", index=False)
    columns = ["ms_per_step", "ratio"]
    grouped = table.groupby(["network", "engine", "threads"], sort=False)[columns]
    print(grouped.agg(["min", "median", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
