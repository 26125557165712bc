"""What measuring a network costs beside its forward passes: ``python -m benchmarks.measure [REPEATS]``.

A ResNet-18 of torchvision, 10,000 images of 32×32 pixels, all blocks: the forward passes alone and ``equisep.measure``,
alternately; seconds and their ratio, medians with range.
"""

from __future__ import annotations

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


def main(repeats: int) -> None:
    """Print a row per case."""
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
