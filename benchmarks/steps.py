"""The cost of a training step: the baseline, and each engine for one network and for twenty.

``make bench`` runs this, benchmarks/operations.py and benchmarks/fuzziness.py. All engines train on the real data over
whole epochs, including data access, the partial batch of 104 and the optimizer, but not compilation. They alternate
within one run, so that drifts of the machine affect them equally. Each repeat is a row of results/bench/steps.csv:

    engine         baseline (plain nn.Module at its best thread count), batched (one program), native (each by itself)
    members        number of networks
    depth          of the feed-forward networks, width 100
    cores          used: one for one network, all for twenty
    ms_per_step    wall time in ms, per network and step
    ratio          time of the baseline in the same repeat, over this one
    gemm_rate      GFLOP/s of the best float32 2048³ matrix product on as many cores, in the same repeat
    gemm_share     throughput of the step (6·batch·Σ in·out operations) relative to it

Twenty networks are trained as in a sweep: parallel worker processes with one thread each. results/bench/growth.csv has
the cost by members, depth, width and number of images of both engines.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from equisep.config import Config, Training, compose_config
from equisep.data import Data, load_data
from equisep.networks import build_network
from equisep.training import Member, NativeTraining, Population, Trainer
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
    cores: int
    run: Callable[[int], None]
    steps: int = STEPS_PER_EPOCH

    def milliseconds(self, seconds: float) -> float:
        """Return wall milliseconds per network and step, over the epochs that fit into about the given seconds."""
        clock = time.perf_counter()
        self.run(1)
        epochs = max(1, round(seconds / (time.perf_counter() - clock)))
        clock = time.perf_counter()
        self.run(epochs)
        return (time.perf_counter() - clock) / (epochs * self.steps * self.members) * 1e3


def members_of(config: Config, data: Data, count: int, first: int = 0) -> list[Member]:
    """Return freshly initialised members."""
    shape = tuple(data.train.inputs.shape[1:])
    networks = [build_network(config.architecture, shape, 10, first + seed) for seed in range(count)]
    return [Member(network, data.train, config.optimizer, first + seed) for seed, network in enumerate(networks)]


def trainers_of(engine: str, members: Sequence[Member], training: Training) -> list[Trainer]:
    """Return what trains the members: one trainer for each, or one for all."""
    if engine == "native":
        return [NativeTraining([member], training) for member in members]
    return [Population(members, training, compiled=True)]


def baseline_case(config: Config, data: Data, depth: int, threads: int) -> Case:
    """Return the baseline with a number of threads."""
    (member,) = members_of(config, data, 1)
    baseline = ReferenceTraining(member.network, data.train, config.optimizer, config.training, 0)

    def run(epochs: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(epochs):
            baseline.run_epoch()

    return Case("baseline", 1, depth, threads, run)


def single_case(engine: str, config: Config, data: Data, depth: int) -> Case:
    """Return an engine for one network on one core."""
    (trainer,) = trainers_of(engine, members_of(config, data, 1), config.training)

    def run(epochs: int) -> None:
        torch.set_num_threads(1)
        for _ in range(epochs):
            trainer.run_epoch()

    return Case(engine, 1, depth, 1, run)


class Workers:
    """Worker processes that each train a part of the networks."""

    def __init__(self, engine: str, overrides: list[str], members: int, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Any] = []
        processes = min(processes, members)
        bounds = [round(part * members / processes) for part in range(processes + 1)]
        for start, end in itertools.pairwise(bounds):
            here, there = context.Pipe()
            arguments = (there, engine, overrides, start, end - start)
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


def train_on_demand(pipe: Any, engine: str, overrides: list[str], first: int, count: int) -> None:
    """Train for the number of epochs received from the pipe, until 0; first two epochs for compilation."""
    torch.set_num_threads(1)
    config = compose_config(overrides)
    trainers = trainers_of(engine, members_of(config, load_data(config.dataset), count, first), config.training)
    for trainer in trainers:
        trainer.run_epoch()
        trainer.run_epoch()
    pipe.send("ready")
    while epochs := pipe.recv():
        for trainer in trainers:
            for _ in range(epochs):
                trainer.run_epoch()
        pipe.send("done")


def measure_depth(depth: int, cores: int, members: int, repeats: int, seconds: float) -> list[dict[str, object]]:
    """Return the rows of one depth: each repeat times all engines in turn."""
    overrides = [f"architecture.depth={depth}", "optimizer=adam"]
    config = compose_config(overrides)
    data = load_data(config.dataset)
    candidates = [baseline_case(config, data, depth, threads) for threads in range(1, cores + 1)]
    cases = [min(candidates, key=lambda case: case.milliseconds(seconds / 2))]
    workers = []
    for engine in ("batched", "native"):
        clock = time.perf_counter()
        cases.append(single_case(engine, config, data, depth))
        cases[-1].run(1)
        workers.append(Workers(engine, overrides, members, cores))
        cases.append(Case(engine, members, depth, cores, workers[-1].run))
        print(f"depth {depth}, {engine}: start and compilation {time.perf_counter() - clock:.1f} s")
    rows = []
    for repeat in range(repeats):
        # Measured with the engines because the machine's speed drifts.
        rates = {used: gemm_rate(used) for used in {case.cores for case in cases}}
        work = floating_point_operations(depth) / STEPS_PER_EPOCH
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
                    "gemm_rate": rates[case.cores] / 1e9,
                    "gemm_share": work / (milliseconds / 1e3) / rates[case.cores],
                }
            )
    for each in workers:
        each.close()
    return rows


def measure_growth(cores: int) -> pd.DataFrame:
    """Return the cost by members, depth, width and images: a row per engine and setting, the best of three."""
    settings = [{"members": members} for members in (1, 4, 20)] + [{"depth": depth} for depth in (2, 32)]
    settings += [{"width": width} for width in (30, 300)] + [{"per_class": count} for count in (10, 300)]
    rows = []
    for setting in settings:
        chosen = {"members": 10, "depth": 8, "width": 100, "per_class": 100} | setting
        images = 10 * chosen["per_class"]
        overrides = ["optimizer=adam", "optimizer.learning_rate=1e-3", f"architecture.depth={chosen['depth']}"]
        overrides += [f"architecture.width={chosen['width']}", f"dataset.per_class={chosen['per_class']}"]
        for engine in ("batched", "native"):
            workers = Workers(engine, overrides, chosen["members"], cores)
            case = Case(engine, chosen["members"], chosen["depth"], cores, workers.run, steps=-(-images // 128))
            rows.append({"engine": engine} | chosen | {"ms_per_step": min(case.milliseconds(0.5) for _ in range(3))})
            workers.close()
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw the times of the engines against depth, a point per repeat."""
    import seaborn as sns

    from equisep.plots import COLUMN_WIDTH, new_figure, style, use_log_scale

    with style():
        figure = new_figure(COLUMN_WIDTH, 72)
        axes = figure.subplots()
        labelled = table.assign(engine=[f"{row.engine}, {row.members}" for row in table.itertuples()])
        sns.stripplot(labelled, x="depth", y="ms_per_step", hue="engine", ax=axes, size=3, dodge=True, jitter=False)
        use_log_scale(axes)
        axes.set(xlabel="depth", ylabel="ms per network and step")
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, title=None, frameon=False)
        figure.savefig(path)


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
    columns = ["ms_per_step", "ratio", "gemm_rate", "gemm_share"]
    print(table.groupby(["depth", "engine", "members"])[columns].agg(["min", "median", "max"]).round(3).to_string())
    growth = measure_growth(options.cores)
    growth.to_csv(folder / "growth.csv", index=False)
    print(growth.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
