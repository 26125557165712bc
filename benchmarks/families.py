"""Measure a network of every classification family of torchvision: ``python -m benchmarks.families FOLDER [NAME …]``.

FOLDER has a folder of images per class. Prints, for each network, its layers, D of the first and the last, r, and the
time of ``equisep.measure`` over that of its forward passes. NAME: as for ``equisep measure``, at 32×32 pixels where it
is not below; by default one of each family of torchvision. Untrained, with ten outputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pandas as pd
import torch

import equisep
from equisep.commands.measure import load_data, load_network

PER_CLASS, BATCH = 5, 25
# One of each family, and the size of image that it takes.
FAMILIES = {
    "torchvision:alexnet": 64,
    "torchvision:vgg11_bn": 32,
    "torchvision:squeezenet1_1": 32,
    "torchvision:resnet18": 32,
    "torchvision:resnext50_32x4d": 32,
    "torchvision:wide_resnet50_2": 32,
    "torchvision:densenet121": 32,
    "torchvision:googlenet": 32,
    "torchvision:inception_v3": 80,
    "torchvision:mobilenet_v2": 32,
    "torchvision:mobilenet_v3_small": 32,
    "torchvision:shufflenet_v2_x0_5": 32,
    "torchvision:mnasnet0_5": 32,
    "torchvision:efficientnet_b0": 32,
    "torchvision:efficientnet_v2_s": 32,
    "torchvision:regnet_y_400mf": 32,
    "torchvision:convnext_tiny": 32,
    "torchvision:swin_t": 32,
    "torchvision:swin_v2_t": 32,
    "torchvision:vit_b_32": 224,
    "torchvision:maxvit_t": 224,
}
SIZES = FAMILIES | {"timm:vit_tiny_patch16_224": 224}


def rows(folder: str, names: list[str]) -> Iterator[dict[str, object]]:
    """Yield a row of the table per network."""
    for name in names:
        torch.manual_seed(0)
        loaded, size = load_network(name, 10), SIZES.get(name, 32)
        network = loaded.network.eval()
        batches = list(load_data(f"folder:{folder}", loaded, size, PER_CLASS, BATCH))
        clock = time.perf_counter()
        with torch.no_grad():
            for inputs, _ in batches:
                network(inputs)
        bare = time.perf_counter() - clock
        clock = time.perf_counter()
        result = equisep.measure(network, batches)
        seconds = time.perf_counter() - clock
        yield {
            "network": name,
            "size": size,
            "layers": f"{len(result.layers) - 1}: `{result.layers[1].name}` … `{result.layers[-1].name}`",
            "D first": f"{result.fuzziness[1]:.4g}",
            "D last": f"{result.fuzziness[-1]:.4g}",
            "r": f"{result.law.pearson_r:.3f}".replace("-", "−"),
            "cost": f"{seconds / bare:.1f}",
        }
        print(name, f"{seconds:.1f} s", file=sys.stderr, flush=True)


def main(folder: str, names: list[str]) -> None:
    """Print the table, as Markdown."""
    table = pd.DataFrame(rows(folder, names or list(FAMILIES)))
    print("| " + " | ".join(table.columns) + " |\n" + "|---" * len(table.columns) + "|")
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
