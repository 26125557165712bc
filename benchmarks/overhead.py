"""The overhead of a population, and of a run in it, besides training: ``python -m benchmarks.overhead``.

Runs sweeps of one and of ten networks in one process, including their wandb logs, five times alternately. The overhead
is the time of the process minus the time of its epochs; the difference between the two sweeps is that of nine runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from equisep.store import all_runs

REPEATS = 5
MEMBERS = 10


def main() -> None:
    """Print medians and ranges, in seconds."""
    one, ten = [], []
    for _ in range(REPEATS):
        one.append(overhead(1))
        ten.append(overhead(MEMBERS))
    per_run = [(more - less) / (MEMBERS - 1) for less, more in zip(one, ten, strict=True)]
    per_population = [less - run for less, run in zip(one, per_run, strict=True)]
    for name, values in (("per population", per_population), ("per run in it", per_run)):
        print(f"{name}: {statistics.median(values):.2f} s [{min(values):.2f}, {max(values):.2f}]")


def overhead(members: int) -> float:
    """Return the seconds that a sweep takes besides its epochs. members: number of networks."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["training=short", "architecture.depth=8", "compute.compile=never", f"seed=range(0,{members})"]
        overrides += ["hydra.launcher.processes=1"]
        start = time.perf_counter()
        command = [sys.executable, "-m", "equisep", "-m", *overrides, f"results={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elapsed = time.perf_counter() - start
        return elapsed - sum(float(run.state()["seconds"]) for run in all_runs(Path(folder)))


if __name__ == "__main__":
    main()
