"""Measure a network of every classification family of torchvision: ``python -m benchmarks.families FOLDER [NAME …]``.

FOLDER has a folder of images per class. Prints, for each network, its layers, D of the first and the last, r, and the
time of ``equisep.measure`` over that of its forward passes. NAME: of torchvision, timm:NAME or a transformers encoder
hf:FOLDER, which takes the pixels' rows as token ids; by default one of each family of torchvision. Untrained.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

import equisep

PER_CLASS, BATCH = 20, 50
# The smallest of each family, and the size of image that it takes.
FAMILIES = {
    "alexnet": 64,
    "vgg11_bn": 32,
    "squeezenet1_1": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "densenet121": 32,
    "googlenet": 32,
    "inception_v3": 80,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "regnet_y_400mf": 32,
    "convnext_tiny": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vit_b_32": 224,
    "maxvit_t": 224,
}


def load(name: str) -> torch.nn.Module:
    """Return an untrained network."""
    if name.startswith("timm:"):
        import timm

        network: torch.nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=10)
        return network
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=10, **options)


def images(folder: str, size: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Return the first images of each class, square and of that size."""
    found = ImageFolder(folder, transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()]))
    chosen: list[int] = []
    for label in range(len(found.classes)):
        chosen += [place for place, target in enumerate(found.targets) if target == label][:PER_CLASS]
    return DataLoader(Subset(found, chosen), batch_size=BATCH)


def rows(folder: str, names: list[str]) -> Iterator[dict[str, object]]:
    """Yield a row of the table per network."""
    for name in names:
        torch.manual_seed(0)
        network = load(name).eval()
        size = FAMILIES.get(name, 32)
        batches = list(images(folder, size))
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
            "layers": f"{len(result.layers) - 1}: {result.layers[1].name} … {result.layers[-1].name}",
            "D first": f"{result.fuzziness[1]:.4g}",
            "D last": f"{result.fuzziness[-1]:.4g}",
            "r": f"{result.law.pearson_r:.3f}",
            "cost": f"{seconds / bare:.2f}",
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
