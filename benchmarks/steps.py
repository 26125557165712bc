"""The cost of a training step: the baseline, this package for one network, this package for a population.

``make bench`` runs this and benchmarks/fuzziness.py. All three engines train on the real data over whole epochs,
including data access, the partial batch of 104 and the optimizer, but not compilation. They alternate within one run,
so that drifts of the machine affect them equally. Each repeat is a row of results/bench/steps.csv:

    engine         baseline (plain nn.Module at its best thread count), single, population
    members        number of networks trained together
    depth          of the feed-forward networks, width 100
    ms_per_step    wall time in ms, per network and step
    ratio          time of the baseline in the same repeat, over this one
    gemm_share     throughput of the step (6·batch·Σ in·out operations) relative to the best float32 2048³ matrix
                   product on as many cores

A population of 20 is trained as in a sweep: parallel worker processes with one thread each.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from equisep.config import Config, FeedForward, compose_config
from equisep.data import Data, load_data
from equisep.networks import build_network
from equisep.training import Member, Population
from equisep.training.reference import ReferenceTraining

DEPTHS = (4, 8, 20)
STEPS_PER_EPOCH = 8


def floating_point_operations(depth: int, width: int = 100, inputs: int = 100, images: int = 1000) -> float:
    """Return the operations of the matrix products of one epoch, forward and both backward: 6·n·Σ in·out."""
    return 6.0 * images * (inputs * width + (depth - 2) * width * width + width * 10)


def gemm_rate(threads: int, repeats: int = 5) -> float:
    """Return the best rate of a float32 product of 2048×2048 matrices, in operations per second."""
    torch.set_num_threads(threads)
    one, other, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    best = float("inf")
    for _ in range(repeats + 1):
        clock = time.perf_counter()
        torch.mm(one, other, out=out)
        best = min(best, time.perf_counter() - clock)
    return 2 * 2048.0**3 / best


@dataclass
class Case:
    """An engine in one setting: run(n) trains all members for n epochs."""

    engine: str
    members: int
    depth: int
    width: int
    cores: int
    run: Callable[[int], None]

    def milliseconds(self, seconds: float) -> float:
        """Return wall milliseconds per network and step, over the epochs that fit into about the given seconds."""
        clock = time.perf_counter()
        self.run(1)
        epochs = max(1, round(seconds / (time.perf_counter() - clock)))
        clock = time.perf_counter()
        self.run(epochs)
        return (time.perf_counter() - clock) / (epochs * STEPS_PER_EPOCH * self.members) * 1e3


def members_of(config: Config, data: Data, count: int, width: int = 100, first: int = 0) -> list[Member]:
    """Return freshly initialised members."""
    depth = config.architecture.depth  # type: ignore[attr-defined]
    shape = FeedForward(family="fnn", depth=depth, width=width)
    networks = [build_network(shape, tuple(data.train.inputs.shape[1:]), 10, first + seed) for seed in range(count)]
    return [Member(network, data.train, config.optimizer, first + seed) for seed, network in enumerate(networks)]


def baseline_case(config: Config, data: Data, depth: int, threads: int) -> Case:
    """Return the baseline with a number of threads."""
    (member,) = members_of(config, data, 1)
    baseline = ReferenceTraining(member.network, data.train, config.optimizer, config.training, 0)

    def run(epochs: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(epochs):
            baseline.run_epoch()

    return Case("baseline", 1, depth, 100, threads, run)


def single_case(config: Config, data: Data, depth: int) -> Case:
    """Return this package's engine for one network on one thread."""
    population = Population(members_of(config, data, 1), config.training, compiled=True)

    def run(epochs: int) -> None:
        torch.set_num_threads(1)
        for _ in range(epochs):
            population.run_epoch()

    return Case("single", 1, depth, 100, 1, run)


class Workers:
    """Worker processes that each train a part of a population."""

    def __init__(self, overrides: list[str], members: int, width: int, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Any] = []
        processes = min(processes, members)
        bounds = [round(part * members / processes) for part in range(processes + 1)]
        for start, end in itertools.pairwise(bounds):
            here, there = context.Pipe()
            arguments = (there, overrides, start, end - start, width)
            context.Process(target=train_on_demand, args=arguments, daemon=True).start()
            # With this end closed, recv raises EOFError if the worker dies.
            there.close()
            self.pipes.append(here)
        self.wait()

    def run(self, epochs: int) -> None:
        """Train for a number of epochs in every process, and wait until all have ended."""
        for pipe in self.pipes:
            pipe.send(epochs)
        self.wait()

    def wait(self) -> None:
        """Wait until every process has answered."""
        for pipe in self.pipes:
            pipe.recv()

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.send(0)


def train_on_demand(pipe: Any, overrides: list[str], first: int, count: int, width: int) -> None:
    """Train for the number of epochs received from the pipe, until 0; first two epochs for compilation."""
    torch.set_num_threads(1)
    config = compose_config(overrides)
    members = members_of(config, load_data(config.dataset), count, width, first)
    population = Population(members, config.training, compiled=True)
    for _ in range(2):
        population.run_epoch()
    pipe.send("ready")
    while epochs := pipe.recv():
        for _ in range(epochs):
            population.run_epoch()
        pipe.send("done")


def measure_depth(depth: int, cores: int, members: int, repeats: int, seconds: float) -> list[dict[str, object]]:
    """Return the rows of one depth: each repeat times all engines in turn."""
    overrides = [f"architecture.depth={depth}", "optimizer=adam"]
    config = compose_config(overrides)
    data = load_data(config.dataset)
    clock = time.perf_counter()
    single = single_case(config, data, depth)
    single.run(1)
    print(f"depth {depth}: compilation for one network {time.perf_counter() - clock:.1f} s")
    clock = time.perf_counter()
    workers = Workers(overrides, members, 100, cores)
    print(f"depth {depth}: start and compilation of {cores} processes {time.perf_counter() - clock:.1f} s")
    candidates = [baseline_case(config, data, depth, threads) for threads in range(1, cores + 1)]
    best = min(candidates, key=lambda case: case.milliseconds(seconds / 2))
    rows = []
    for repeat in range(repeats):
        # Measured with the engines because the machine's speed drifts.
        rates = {used: gemm_rate(used) for used in {1, best.cores, cores}}
        work = floating_point_operations(depth) / STEPS_PER_EPOCH
        cases = [best, single, Case("population", members, depth, 100, cores, workers.run)]
        times = [case.milliseconds(seconds) for case in cases]
        for case, milliseconds in zip(cases, times, strict=True):
            rows.append(
                {
                    "engine": case.engine,
                    "members": case.members,
                    "depth": depth,
                    "repeat": repeat,
                    "cores": case.cores,
                    "ms_per_step": milliseconds,
                    "ratio": times[0] / milliseconds,
                    "gemm_share": work / (milliseconds / 1e3) / rates[case.cores],
                }
            )
    workers.close()
    return rows


def measure_growth(cores: int) -> pd.DataFrame:
    """Return the cost by number of members and width at depth 8: a row per population."""
    rows = []
    overrides = ["architecture.depth=8", "optimizer=adam"]
    for members, width in ((2, 100), (4, 100), (8, 100), (16, 100), (20, 100), (40, 100), (8, 20), (8, 300)):
        workers = Workers(overrides, members, width, cores)
        case = Case("population", members, 8, width, cores, workers.run)
        rows.append(
            {
                "members": members,
                "depth": 8,
                "width": width,
                "ms_per_step": min(case.milliseconds(1.0) for _ in range(3)),
            }
        )
        workers.close()
        print(f"members {members}, width {width}: {rows[-1]['ms_per_step']:.3f} ms per network and step")
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw the times of the engines against depth, a point per repeat."""
    import seaborn as sns
    from matplotlib.figure import Figure

    from equisep.plots import use_style

    use_style()
    figure = Figure(figsize=(3.4, 2.8), layout="constrained")
    axes = figure.subplots()
    sns.stripplot(table, x="depth", y="ms_per_step", hue="engine", ax=axes, size=3.5, dodge=True, jitter=False)
    axes.set_yscale("log")
    axes.set(xlabel="depth", ylabel="ms per network and step")
    sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, title=None, frameon=False)
    figure.savefig(path, dpi=200)


def main() -> None:
    """Measure, print medians with their spread, and write results/bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of training per repeat and engine")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=Path(os.environ.get("EQUISEP_RESULTS", "results")))
    options = parser.parse_args()
    folder = options.results / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for depth in DEPTHS:
        rows += measure_depth(depth, options.cores, options.members, options.repeats, options.seconds)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "steps.csv", index=False)
    draw(table, folder / "steps.png")
    columns = ["ms_per_step", "ratio", "gemm_share"]
    print(table.groupby(["depth", "engine"])[columns].agg(["min", "median", "max"]).round(3).to_string())
    measure_growth(options.cores).to_csv(folder / "growth.csv", index=False)


if __name__ == "__main__":
    main()
