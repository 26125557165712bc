"""The cost of D: computed from the K class means, against the p×p covariance and its pseudo-inverse.

Rows of results/bench/fuzziness.csv: n, p, method (class_means, covariance), seconds; a row per repeat. At p = 65,536
(the first layer of a VGG) the covariance would need 34 GB, so only the class means are measured.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from equisep.measures import separation_fuzziness


def by_covariance(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return D by its definition: SS_w and SS_b as matrices, Moore–Penrose inverse, trace of the product."""
    matrix = features.double().numpy()
    centre = matrix.mean(axis=0)
    within = np.zeros((matrix.shape[1],) * 2)
    between = np.zeros_like(within)
    for label in labels.unique().tolist():
        rows = matrix[(labels == label).numpy()]
        deviations = rows - rows.mean(axis=0)
        within += deviations.T @ deviations / len(matrix)
        offset = rows.mean(axis=0) - centre
        between += len(rows) / len(matrix) * np.outer(offset, offset)
    return float(np.trace(within @ np.linalg.pinv(between, rcond=len(between) * np.finfo(float).eps)))


def main() -> None:
    """Measure, print medians, and write results/bench/fuzziness.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(os.environ.get("EQUISEP_RESULTS", "results")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for points, width in ((1000, 100), (1000, 784), (1000, 2000), (1000, 65_536), (10_000, 100), (10_000, 784)):
        labels = torch.arange(points) % 10
        features = torch.randn(points, width, generator=torch.Generator().manual_seed(0))
        methods = {"class_means": separation_fuzziness}
        # The definition takes 16 s at p = 2,000, so it is measured once.
        if width <= 2000 and points == 1000:
            methods["covariance"] = by_covariance
        for name, method in methods.items():
            for repeat in range(1 if name == "covariance" and width == 2000 else options.repeats):
                clock = time.perf_counter()
                value = method(features, labels)
                seconds = time.perf_counter() - clock
                rows.append({"n": points, "p": width, "method": name, "repeat": repeat, "seconds": seconds, "D": value})
    table = pd.DataFrame(rows)
    folder = options.results / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "fuzziness.csv", index=False)
    print(table.groupby(["n", "p", "method"])["seconds"].agg(["min", "median", "max"]).round(4).to_string())
    values = table.groupby(["n", "p"])["D"]
    print(
        f"largest relative difference between the methods: {((values.max() - values.min()) / values.max()).max():.1e}"
    )


if __name__ == "__main__":
    main()
