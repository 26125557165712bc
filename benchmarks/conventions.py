"""What each convention of measuring adds to a run: ``python -m benchmarks.conventions [REPEATS]``.

Networks of Figure 1 (Adam) are trained natively and measured as published; each convention is then measured from the
stored snapshots, nine on the training set and the last on the test set (expected: the training set alone). Seconds of
processor, medians of the repeats, and their share of training and published measurement.
"""

from __future__ import annotations

import sys
import tempfile
import time

import pandas as pd
import torch

from equisep.config import compose_config
from equisep.execution import run_one
from equisep.process import prepare_process

CONVENTIONS = {
    "paper": ["measure=paper"],
    "evaluation": ["measure=evaluation"],
    "shuffled": ["measure=shuffled"],
    "stratified": ["measure=stratified"],
    "expected": ["measure.batch_norm=expected", "measure.test_epochs=[]"],
}


def measure(depth: int, seed: int) -> dict[str, float]:
    """Return the seconds of processor of a training, and of each convention, in one new store."""
    seconds = {}
    with tempfile.TemporaryDirectory() as store:
        fixed = [f"architecture.depth={depth}", f"seed={seed}", f"results={store}", "tracking=off"]
        for name, overrides in ({"training": ["measure.epochs=[]", "measure.test_epochs=[]"]} | CONVENTIONS).items():
            config = compose_config([*fixed, *overrides])
            clock = time.process_time()
            run_one(config)
            seconds[name] = time.process_time() - clock
    return seconds


def main(repeats: int) -> None:
    """Print a row per depth and part."""
    prepare_process()
    torch.set_num_threads(1)
    rows = []
    for depth in (4, 8, 20):
        medians = pd.DataFrame([measure(depth, seed) for seed in range(repeats)]).median()
        run = medians["training"] + medians["paper"]
        rows += [
            {"depth": depth, "part": name, "seconds": value, "share of a run": value / run}
            for name, value in medians.items()
        ]
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
