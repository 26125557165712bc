"""The cost of D: computed from the K class means, against reading the features and against the p×p covariance.

Rows of results/bench/fuzziness.csv: n, p, method, repeat, seconds, D. Methods:

    class_means    :func:`equisep.separation_fuzziness`, float32 features, products in float64
    float32        the same with products in float32
    reading        one pass over the features (their sum): D reads them twice
    covariance     the definition by p×p matrices and pinv; at p = 65,536, a VGG's first layer, it would need 34 GB

The methods alternate within a repeat, on one core.
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

SIZES = ((1000, 100), (1000, 784), (1000, 2000), (1000, 65_536), (10_000, 100), (10_000, 784), (10_000, 8192))


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
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", type=Path, default=Path(os.environ.get("EQUISEP_RESULTS", "results")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = {
        "class_means": separation_fuzziness,
        "float32": lambda features, labels: separation_fuzziness(features, labels, precision=torch.float32),
        "reading": lambda features, labels: features.sum().item() and None,
        "covariance": by_covariance,
    }
    rows = []
    for points, width in SIZES:
        labels = torch.arange(points) % 10
        features = torch.randn(points, width, generator=torch.Generator().manual_seed(0))
        for repeat in range(-1, options.repeats):
            for name, method in methods.items():
                # The definition takes seconds at p = 2,000, so it is measured once.
                if name == "covariance" and (width > 2000 or points > 1000 or (width == 2000 and repeat != 0)):
                    continue
                clock = time.perf_counter()
                value = method(features, labels)
                seconds = time.perf_counter() - clock
                # Repeat −1 warms up.
                if repeat >= 0:
                    rows.append(
                        {"n": points, "p": width, "method": name, "repeat": repeat, "seconds": seconds, "D": value}
                    )
    table = pd.DataFrame(rows)
    folder = options.results / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "fuzziness.csv", index=False)
    print(table.groupby(["n", "p", "method"])["seconds"].agg(["min", "median", "max"]).mul(1e3).round(2).to_string())
    seconds = table.pivot_table(index=["n", "p"], columns="method", values="seconds", aggfunc="median")
    print("\nshare of the rate at which the features are read, two passes:")
    print((2 * seconds["reading"] / seconds["class_means"]).round(2).to_string())
    values = table[table["method"].isin(["class_means", "covariance"])].groupby(["n", "p"])["D"]
    difference = ((values.max() - values.min()) / values.max()).max()
    print(f"largest relative difference between class means and covariance: {difference:.1e}")


if __name__ == "__main__":
    main()
