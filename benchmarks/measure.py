"""What measuring a network costs beside its forward passes: ``python -m benchmarks.measure [REPEATS]``.

One layer at each limit of size, with 1 GB for it: seconds, and the most memory of a process of its own. Then a
ResNet-18 of torchvision, 10,000 images of 32×32 pixels, all blocks: the forward passes alone and ``equisep.measure``,
alternately; seconds and their ratio, medians with range.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time

import pandas as pd
import torch
import torchvision

import equisep

IMAGES, BATCH = 10_000, 100
CASES = {
    "D, NC1, NC2, one pass": {"metrics": ("fuzziness", "nc1", "nc2")},
    "all that stream, one pass": {},
    "all that stream, two passes": {"memory_limit": 0.3},
}


# Features, points, classes, points per batch.
SIZES = ((1_000_000, 2_000, 10, 50), (512, 1_000_000, 10, 5_000), (4_096, 20_000, 1_000, 500))


class Wide(torch.nn.Module):
    """A network with one layer of any width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(16, width) / 4)
        self.layer = torch.nn.ReLU()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return features (n, width) of inputs (n, 16)."""
        return self.layer(inputs @ self.weight)


def measure_size(width: int, points: int, classes: int, batch: int) -> dict[str, float]:
    """Return seconds and GB of measuring one layer of so many features."""
    torch.manual_seed(0)
    labels = torch.arange(points) % classes
    data = torch.randn(classes, 16)[labels] + torch.randn(points, 16), labels
    clock = time.perf_counter()
    # Too little for the features, enough for the class means.
    result = equisep.measure(Wide(width).eval(), data, "layer", batch_size=batch, memory_limit=1.0)
    seconds = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sizes = {"features": width, "points": points, "classes": classes, "passes": result.settings["passes"]}
    return sizes | {"seconds": seconds, "peak GB": peak}


def main(repeats: int) -> None:
    """Print a row per size and per case."""
    # First, since a process begins with the peak of the one that starts it.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        sizes = pool.starmap(measure_size, SIZES, chunksize=1)
    print(pd.DataFrame(sizes).round(1).to_string(index=False))
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10).eval()
    inputs, labels = torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10
    rows = []
    for name, options in CASES.items():
        for _ in range(repeats):
            clock = time.perf_counter()
            with torch.no_grad():
                for batch in inputs.split(BATCH):
                    network(batch)
            bare = time.perf_counter() - clock
            clock = time.perf_counter()
            result = equisep.measure(network, (inputs, labels), batch_size=BATCH, **options)
            seconds = time.perf_counter() - clock
            # Over as many forward passes as it takes.
            ratio = seconds / bare / result.settings["passes"]
            rows.append({"case": name, "seconds": seconds, "of forward passes": bare, "ratio": ratio})
    grouped = pd.DataFrame(rows).groupby("case", sort=False)
    print(grouped.agg(["median", "min", "max"]).round(2).to_string())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
