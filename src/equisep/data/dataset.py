"""A dataset config as tensors in memory: the released code's subset of the training images, the whole test set.

What was drawn, resized and normalised once is kept in ROOT/prepared, so that later runs start at once;
an image folder of the user's own may change and is read anew each time.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equisep.config import ConfigError, Dataset, to_plain
from equisep.data.sources import TORCHVISION, DataUnavailable, load_image_folders, load_known
from equisep.files import write_atomically

SPLITS = ("train", "test")
# Raised whenever equal dataset configs come out as other tensors, so that what was kept is not taken.
PREPARATION = 1
# Fields of a dataset config that what is kept does not depend on.
NOT_PREPARED = ("root", "source", "label_seed")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels in stored order; two splits are equal only if they are one object.

    inputs: (n, channels, size, size) float32, normalised. labels: (n,) int64, 0 … K−1.
    """

    inputs: Tensor
    labels: Tensor

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of shape and content; equal tensors give equal digests on every machine."""
        content = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        for tensor in (self.inputs, self.labels):
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class Data:
    """A training subset and a test set; classes: names in label order; source: one line, where it came from."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str


def load_data(config: Dataset) -> Data:
    """Return the training subset and the whole test set that a dataset config describes.

    With a label_seed the training labels are permuted at random; those of the test set are true in any case.

    Raises ConfigError for an unknown name or a class with fewer images than asked for, and
    DataUnavailable where no source has the data set.
    """
    data = _load_true(config)
    if config.label_seed is None:
        return data
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(config.label_seed))
    return replace(data, train=Split(data.train.inputs, data.train.labels[order]))


def _load_true(config: Dataset) -> Data:
    """Return what a dataset config describes, with its true labels."""
    if config.source == "folder":
        return _prepare(config, *load_image_folders(config))
    if config.name not in TORCHVISION:
        known = ", ".join(TORCHVISION)
        raise ConfigError(f"dataset.name={config.name}: choose one of {known}, or dataset.source=folder for your own")
    science = {name: value for name, value in to_plain(config).items() if name not in NOT_PREPARED}
    key = hashlib.sha256(repr((PREPARATION, sorted(science.items()))).encode()).hexdigest()[:16]
    prepared = Path(config.root) / "prepared" / f"{config.name}_{key}.safetensors"
    if not prepared.exists():
        data = _prepare(config, *load_known(config))
        _keep(prepared, data)
        return data
    return _take(prepared)


def _prepare(config: Dataset, train: Any, test: Any, source: str) -> Data:
    from torchvision import transforms

    prepare = transforms.Compose(
        [
            transforms.Resize((config.size, config.size)),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )
    targets = torch.as_tensor(train.targets)
    chosen = draw_subset(targets, _class_sizes(config, train.classes), config.subset_seed)
    return Data(
        train=_as_tensors(train, chosen.tolist(), prepare, config.channel),
        test=_as_tensors(test, range(len(test)), prepare, config.channel),
        classes=tuple(train.classes),
        source=source,
    )


def _class_sizes(config: Dataset, classes: Sequence[str]) -> list[int]:
    if config.sizes is None:
        assert config.per_class is not None
        return [config.per_class] * len(classes)
    if len(config.sizes) != len(classes):
        raise ConfigError(
            f"dataset.sizes={list(config.sizes)}: {len(config.sizes)} sizes for the {len(classes)} classes of "
            f"{config.name} ({', '.join(classes)}), give one for each"
        )
    return list(config.sizes)


def _keep(path: Path, data: Data) -> None:
    content = {f"{name}.{part}": getattr(getattr(data, name), part) for name in SPLITS for part in ("inputs", "labels")}
    facts = {"classes": json.dumps(data.classes), "source": data.source}
    # A root that cannot be written to serves as well, only slower.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.torch.save(content, facts))


def _take(path: Path) -> Data:
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = file.metadata()
            splits = {
                name: Split(file.get_tensor(f"{name}.inputs"), file.get_tensor(f"{name}.labels")) for name in SPLITS
            }
            return Data(**splits, classes=tuple(json.loads(facts["classes"])), source=facts["source"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataUnavailable(f"{path} is damaged ({error}): remove it, and it will be made again") from None


def draw_subset(labels: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """Return the indices of a class-wise random subset, in the order they were drawn.

    labels: (n,) int64, 0 … K−1. sizes: K images to take of each class. The draw is the released
    code's: one shuffled DataLoader pass seeded with ``torch.manual_seed``; of each class the first
    arrivals are kept. The global random state is left as found.
    Raises ConfigError where a class has fewer images than asked for.
    """
    available = torch.bincount(labels, minlength=len(sizes)).tolist()
    for label, (size, count) in enumerate(zip(sizes, available, strict=True)):
        if size > count:
            raise ConfigError(
                f"dataset: {size} images asked of class {label}, which has {count} training images, "
                "give at most that in dataset.per_class or dataset.sizes"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # One batch that holds every index consumes the random stream as batches of one do.
        (order,) = DataLoader(range(len(labels)), batch_size=len(labels), shuffle=True)  # type: ignore[arg-type]
    arrivals = torch.nn.functional.one_hot(labels[order], len(sizes)).cumsum(dim=0)
    rank_in_class = arrivals.gather(1, labels[order, None]).squeeze(1)
    kept: Tensor = order[rank_in_class <= torch.as_tensor(sizes)[labels[order]]]
    return kept


def _as_tensors(images: Any, chosen: Sequence[int], prepare: Callable[[Any], Tensor], channel: int | None) -> Split:
    inputs = torch.stack([prepare(images[index][0]) for index in chosen])
    if channel is not None:
        inputs = inputs[:, channel : channel + 1].contiguous()
    return Split(inputs, torch.as_tensor(images.targets)[list(chosen)])
