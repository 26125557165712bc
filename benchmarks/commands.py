"""The time that a user waits for the commands that read: ``python -m benchmarks.commands [RUNS]``.

One network is trained for the paper's 600 epochs; the store of RUNS runs (1,000) consists of copies of its records
without weights, with another seed each. Medians and ranges of five calls.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from equisep import load_laws
from equisep.config import compose_config
from equisep.execution import run_one
from equisep.store.checksums import YAML

REPETITIONS = 5


def main(runs: int) -> None:
    """Print the seconds of each command."""
    with tempfile.TemporaryDirectory() as folder:
        store, many = Path(folder, "store"), Path(folder, "many")
        trained = run_one(compose_config([f"results={store}", "tracking=off"])).run.path
        config = YAML.open((trained / "config.yaml").read_bytes()).decode()
        for seed in range(runs):
            copy = many / f"runs/{seed:016x}"
            shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("*.safetensors"))
            changed = re.sub(r"^seed: \d+$", f"seed: {seed}", config, flags=re.MULTILINE)
            (copy / "config.yaml").write_bytes(YAML.close(changed.encode()))
        equisep = str(Path(sys.executable).with_name("equisep"))
        _measure("equisep --help", lambda: _call(equisep, "--help"))
        _measure("equisep show last", lambda: _call(equisep, "show", "last", f"results={store}"))
        _measure(f"equisep status, {runs:,} runs", lambda: _call(equisep, "status", f"results={many}"))
        _measure(f"load_laws, {runs:,} runs", lambda: load_laws(many))
        laws = load_laws(many)
        print(f"load_laws: {laws['run'].nunique():,} runs, {len(laws):,} rows")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _measure(what: str, act: Callable[[], object]) -> None:
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"{what}: {median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, n = {REPETITIONS})", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
