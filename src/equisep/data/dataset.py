"""A dataset config as tensors in memory: the released code's subset of the training images, the whole test set.

Prepared tensors (drawn, resized, normalised) are cached in ROOT/prepared, so that later runs start at once. The user's
own image folders may change and are read again each time.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equisep.config import ConfigError, CustomDataset, Dataset, to_plain
from equisep.data.custom import load_points
from equisep.data.sources import ORIGINAL_MODE, TORCHVISION, DataUnavailable, load_image_folders, load_torchvision
from equisep.files import write_atomically

SPLITS = ("train", "test")
# To be raised with every change that makes equal dataset configs give other tensors: it invalidates the cache.
PREPARATION = 1
# Fields of a dataset config that the cached tensors do not depend on.
NOT_IN_CACHE_KEY = ("root", "source", "label_seed")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels in stored order; two splits are equal only if they are the same object.

    inputs: (n, channels, size, size) float32, normalised. labels: (n,) int64, 0 … K−1.
    """

    inputs: Tensor
    labels: Tensor

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and content, equal for equal tensors on every machine."""
        content = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        for tensor in (self.inputs, self.labels):
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class Data:
    """A training subset and a test set.

    classes: names in label order. source, preparation: one line each, on the origin of the files and on what was done
    to the images.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str
    preparation: str


def load_data(config: Dataset) -> Data:
    """Return the training subset and the whole test set that a dataset config describes.

    With a label_seed the training labels are permuted at random; test labels are always true.
    Raises ConfigError for an unknown name or a class with too few images, and DataUnavailable where no source has
    the data set.
    """
    data = _load_true(config)
    if config.label_seed is None:
        return data
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(config.label_seed))
    return replace(data, train=Split(data.train.inputs, data.train.labels[order]))


def _load_true(config: Dataset) -> Data:
    """Return the data of a dataset config with true labels."""
    if isinstance(config, CustomDataset):
        return _prepare_custom(config)
    if config.source == "folder":
        return _prepare(config, *load_image_folders(config))
    if config.name not in TORCHVISION:
        names = ", ".join(TORCHVISION)
        raise ConfigError(f"dataset.name={config.name}: choose one of {names}; or set dataset.source=folder")
    fields = sorted((name, value) for name, value in to_plain(config).items() if name not in NOT_IN_CACHE_KEY)
    key = hashlib.sha256(repr((PREPARATION, fields)).encode()).hexdigest()[:16]
    path = Path(config.root) / "prepared" / f"{config.name}_{key}.safetensors"
    if path.exists():
        return _read_cache(config, path)
    data = _prepare(config, *load_torchvision(config))
    _write_cache(path, data)
    return data


def _prepare(config: Dataset, train: Any, test: Any, source: str) -> Data:
    from torchvision import transforms

    resize, normalise = transforms.Resize((config.size, config.size)), transforms.Normalize(config.mean, config.std)
    transform = transforms.Compose([resize, transforms.ToTensor(), normalise])
    indices = draw_training(config, torch.as_tensor(train.targets), train.classes)
    kinds: set[tuple[tuple[int, int], str]] = set()
    return Data(
        train=_as_tensors(train, indices.tolist(), transform, config.channel, kinds),
        test=_as_tensors(test, range(len(test)), transform, config.channel, kinds),
        classes=tuple(train.classes),
        source=source,
        preparation=_describe_preparation(config, kinds),
    )


def _prepare_custom(config: CustomDataset) -> Data:
    """Return the data of a custom data set; classes are the labels of the training points, in ascending order."""
    train, test, source = load_points(config)
    present = sorted(set(train.labels.tolist()))
    if len(present) < 2:
        raise ConfigError(f"dataset.target={config.target}: the training points have one class, two are needed")
    if len(set(test.labels.tolist())) < 2:
        raise ConfigError(f"dataset.target={config.target}: the test points have one class, two are needed")
    unknown = sorted(set(test.labels.tolist()) - set(present))
    if unknown:
        raise ConfigError(f"dataset.target={config.target}: no training point has label {unknown[0]} of test points")
    numbers = {label: number for number, label in enumerate(present)}
    classes = [str(label) for label in present]
    if train.classes and present == list(range(len(train.classes))):
        classes = list(train.classes)
    splits: list[Split] = []
    for points in (train, test):
        labels = torch.tensor([numbers[label] for label in points.labels.tolist()])
        chosen = draw_training(config, labels, classes).tolist() if points is train else list(range(len(labels)))
        splits.append(Split(points.inputs(chosen, config), labels[chosen]))
    shapes = [tuple(split.inputs.shape[1:]) for split in splits]
    if shapes[0] != shapes[1]:
        problem = f"training points have shape {shapes[0]}, test points {shapes[1]}"
        raise ConfigError(f"dataset.target={config.target}: {problem}; set dataset.size for images")
    return Data(splits[0], splits[1], tuple(classes), source, _describe_custom(config, splits[0], classes))


def _describe_custom(config: CustomDataset, split: Split, classes: Sequence[str]) -> str:
    listed = ", ".join(classes) if len(classes) <= 10 else f"{classes[0]} … {classes[-1]}"
    steps = [f"points of shape {tuple(split.inputs.shape[1:])}, {len(classes)} classes ({listed})"]
    if config.size:
        steps.append(f"resized to {config.size}×{config.size} pixels")
    steps.append(
        f"normalised with mean {config.mean}, standard deviation {config.std}" if config.mean else "values kept"
    )
    return "; ".join(steps)


def _describe_preparation(config: Dataset, kinds: Collection[tuple[tuple[int, int], str]]) -> str:
    """Return what is done to the images, in one line. kinds: (width, height) and mode of the images before it."""
    target = f"{config.size}×{config.size}"
    sizes = sorted({size for size, _ in kinds}, key=math.prod)
    ends = dict.fromkeys(f"{width}×{height}" for width, height in (sizes[:1] + sizes[-1:]))
    resized = f"resized to {target} pixels"
    steps = [] if list(ends) == [target] else [f"{' to '.join(ends)} {resized}".strip()]
    if any(width != height for width, height in sizes):
        steps.append("not keeping the aspect ratio")
    assert config.mean is not None
    assert config.std is not None
    colours = ("L", "grey") if len(config.mean) == 1 else ("RGB", "RGB")
    others = sorted({mode for _, mode in kinds} - {colours[0]})
    if others:
        steps.append(f"{', '.join(others)} converted to {colours[1]}")
    if config.channel is not None:
        steps.append(f"channel {config.channel} alone")
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (config.mean, config.std))
    return "; ".join([*steps, f"normalised with mean {mean}, standard deviation {std}"])


def draw_training(config: Dataset, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Return the indices of the training points: those drawn, or all in stored order where no number is set."""
    if config.per_class is None and config.sizes is None:
        return torch.arange(len(labels))
    return draw_subset(labels, _class_sizes(config, classes), config.subset_seed)


def _class_sizes(config: Dataset, classes: Sequence[str]) -> list[int]:
    if config.sizes is None:
        assert config.per_class is not None
        return [config.per_class] * len(classes)
    if len(config.sizes) != len(classes):
        problem = f"{len(config.sizes)} sizes for the {len(classes)} classes of {config.name} ({', '.join(classes)})"
        raise ConfigError(f"dataset.sizes={list(config.sizes)}: {problem}; set one per class")
    return list(config.sizes)


def _write_cache(path: Path, data: Data) -> None:
    tensors = {f"{name}.{part}": getattr(getattr(data, name), part) for name in SPLITS for part in ("inputs", "labels")}
    metadata = {"classes": json.dumps(data.classes), "source": data.source, "preparation": data.preparation}
    # A read-only root works too, without the cache.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.torch.save(tensors, metadata))


def _read_cache(config: Dataset, path: Path) -> Data:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata, tensor = file.metadata(), file.get_tensor
            splits = {name: Split(tensor(f"{name}.inputs"), tensor(f"{name}.labels")) for name in SPLITS}
            # Earlier versions did not store the preparation.
            preparation = metadata.get("preparation") or _describe_preparation(config, ())
            return Data(
                **splits,
                classes=tuple(json.loads(metadata["classes"])),
                source=metadata["source"],
                preparation=preparation,
            )
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataUnavailable(f"{path} is damaged ({error}): remove it; it will be created again") from None


def draw_subset(labels: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """Return the indices of a class-wise random subset, in the order drawn.

    labels: (n,) int64, 0 … K−1. sizes: (K,) number of images per class. As in the released code, the first images of
    each class in one shuffled DataLoader pass are kept, seeded with ``torch.manual_seed``. The global random state
    is restored. Raises ConfigError where a class has too few images.
    """
    available = torch.bincount(labels, minlength=len(sizes)).tolist()
    for label, (size, count) in enumerate(zip(sizes, available, strict=True)):
        if size > count:
            problem = f"class {label} has {count} training images; lower dataset.per_class or dataset.sizes"
            raise ConfigError(f"dataset: {size} images requested, but {problem}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # One batch of all indices consumes the random stream exactly as batches of one do.
        (order,) = DataLoader(range(len(labels)), batch_size=len(labels), shuffle=True)  # type: ignore[arg-type]
    counts = torch.nn.functional.one_hot(labels[order], len(sizes)).cumsum(dim=0)
    rank_in_class = counts.gather(1, labels[order, None]).squeeze(1)
    subset: Tensor = order[rank_in_class <= torch.as_tensor(sizes)[labels[order]]]
    return subset


def _as_tensors(
    images: Any,
    indices: Sequence[int],
    transform: Callable[[Any], Tensor],
    channel: int | None,
    kinds: set[tuple[tuple[int, int], str]],
) -> Split:
    """Return images as tensors. kinds: receives (width, height) and mode of the images as they were read."""
    tensors = []
    for index in indices:
        image = images[index][0]
        kinds.add((image.size, image.info.get(ORIGINAL_MODE, image.mode)))
        tensors.append(transform(image))
    inputs = torch.stack(tensors)
    if channel is not None:
        inputs = inputs[:, channel : channel + 1].contiguous()
    return Split(inputs, torch.as_tensor(images.targets)[list(indices)])
