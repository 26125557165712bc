"""The time to plan a sweep of 10,000 runs of which half are done: ``python -m benchmarks.planning [RUNS]``.

Composes 100 settings, then looks up each run in the store and groups the missing ones into populations; nothing is
trained. The store is simulated: its finished runs have a state, empty snapshots and a measure, but no weights.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from equisep.config import Config, compose_config, compose_sweep
from equisep.execution import prepare
from equisep.execution.planning import plan
from equisep.measures import LayerRecord
from equisep.store import Run


def main(runs: int) -> None:
    """Print the seconds of each part."""
    with tempfile.TemporaryDirectory() as folder:
        base = compose_config([f"results={folder}", "tracking=off", "training=smoke"])
        configs = [
            replace(base, seed=seed, optimizer=replace(base.optimizer, learning_rate=rate))
            for seed in range(runs // 5)
            for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
        ]
        rates = [[f"optimizer.learning_rate={number}e-5", "architecture.depth=8"] for number in range(1, 101)]
        _measure("composing 100 settings, one choice of groups", lambda: compose_sweep(rates))
        first = prepare(base)
        _measure("simulating done runs", lambda: [_simulate_done(config, first.data) for config in configs[::2]])
        jobs = _measure(f"looking up {len(configs):,} runs", lambda: [prepare(config) for config in configs])
        populations = _measure("grouping them", lambda: plan(jobs, max_members=10, processes=2))
        print(f"{sum(map(len, populations)):,} runs to train in {len(populations):,} populations")


def _measure(what: str, act: Callable[[], Any]) -> Any:
    start, busy = time.perf_counter(), time.process_time()
    result = act()
    print(f"{what}: {time.perf_counter() - start:.2f} s ({time.process_time() - busy:.2f} s of processor)")
    return result


def _simulate_done(config: Config, data: Any) -> None:
    job = prepare(config)
    job.create_run()
    names = ("input", *job.points)
    for epoch in config.training.kept_epochs():
        (job.run.path / f"snapshots/epoch_{epoch:04d}.safetensors").touch()
    records = [
        LayerRecord(epoch, split, names, (1.0,) * len(names), (9,) * len(names), 10, 0.1, 1.0)
        for epoch, split in job.missing()
    ]
    Run(Path(config.results), job.run.id).save_measure(config.measure, records)
    job.run.write_state("done", seconds=1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
