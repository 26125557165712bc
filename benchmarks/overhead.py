"""What a population, and a run in it, cost besides their training: ``python -m benchmarks.overhead``.

Sweeps of one network and of ten in one process, as a user types them, with their mirrors in wandb: the time that the
process takes less the time that its epochs take, five times in turns. The difference of the two is that of nine runs.
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
    for name, values in (("a population", per_population), ("a run in it", per_run)):
        print(f"{name}: {statistics.median(values):.2f} s [{min(values):.2f}, {max(values):.2f}]")


def overhead(members: int) -> float:
    """Return the seconds that a sweep of so many networks takes besides its epochs."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["training=short", "architecture.depth=8", "compute.compile=never", f"seed=range(0,{members})"]
        words += ["hydra.launcher.processes=1"]
        start = time.perf_counter()
        command = [sys.executable, "-m", "equisep", "-m", *words, f"results={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        passed = time.perf_counter() - start
        return passed - sum(float(run.state()["seconds"]) for run in all_runs(Path(folder)))


if __name__ == "__main__":
    main()
