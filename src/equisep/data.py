"""Data sets as tensors in memory: the released code's subset of the training images, the whole test set.

A data set is looked for in this order: files under the data root, torchvision's download, and for
Fashion-MNIST Debian's package ``dataset-fashion-mnist``, unpacked without root rights. What was drawn,
resized and normalised of such a set once is kept in ROOT/prepared, so that later runs start at once;
an image tree of the user's own may change and is read anew each time.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equisep.files import write_atomically
from equisep.schema import ConfigError, Dataset, to_plain

DEBIAN_PACKAGE = "dataset-fashion-mnist"
SPLITS = ("train", "test")
# Raised whenever equal dataset configs come out as other tensors, so that what was kept is not taken.
PREPARATION = 1
# Fields of a dataset config that what is kept does not depend on.
NOT_PREPARED = ("root", "source", "label_seed")
TORCHVISION = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10"}


class DataUnavailable(Exception):
    """A data set that could not be had from any source; the message says where to put it."""


@dataclass(frozen=True)
class Split:
    """Images and labels in stored order.

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
        return _prepare(config, *_from_folder(config))
    if config.name not in TORCHVISION:
        known = ", ".join(TORCHVISION)
        raise ConfigError(f"dataset.name={config.name}: choose one of {known}, or dataset.source=folder for your own")
    science = {name: value for name, value in to_plain(config).items() if name not in NOT_PREPARED}
    key = hashlib.sha256(repr((PREPARATION, sorted(science.items()))).encode()).hexdigest()[:16]
    prepared = Path(config.root) / "prepared" / f"{config.name}_{key}.safetensors"
    if not prepared.exists():
        data = _prepare(config, *_from_torchvision(config))
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


def _from_folder(config: Dataset) -> tuple[Any, Any, str]:
    from torchvision import datasets

    mode = "L" if len(config.mean) == 1 else "RGB"
    root = Path(config.root) / config.name
    splits = []
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise DataUnavailable(f"dataset.source=folder: no folder {folder}; it wants one folder of images per class")
        try:
            splits.append(datasets.ImageFolder(str(folder), loader=lambda path: _read_image(path, mode)))
        except FileNotFoundError as error:
            raise DataUnavailable(f"dataset.source=folder: {str(error).splitlines()[0]}") from None
    train, test = splits
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ConfigError(f"dataset.source=folder: {root}/train and {root}/test differ in the classes {differing}")
    return train, test, f"folder {root}"


def _read_image(path: str, mode: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError) as error:
        raise DataUnavailable(f"{path} cannot be read as an image ({error}): remove or replace it") from None


def _from_torchvision(config: Dataset) -> tuple[Any, Any, str]:
    root = Path(config.root)
    attempts = [(_read_present, "files under {root}"), (_download, "torchvision's download to {root}")]
    if config.name == "fashion_mnist":
        attempts.append((_unpack_debian_package, f"Debian's package {DEBIAN_PACKAGE}, unpacked to {{root}}"))
    failures = []
    for attempt, source in attempts:
        try:
            train, test = attempt(config.name, root)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            failures.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
        else:
            return train, test, f"{config.name}: {source.format(root=root)}"
    raise DataUnavailable(
        f"{config.name} is not to be had ({'; '.join(failures)}): put its files under {root} or set EQUISEP_DATA"
    )


def _read_present(name: str, root: Path) -> tuple[Any, Any]:
    kind = _torchvision_class(name)
    present = root / kind.__name__ / "raw"
    if not hasattr(kind, "resources") or not present.is_dir():
        return kind(str(root), train=True), kind(str(root), train=False)
    # The original .gz files serve as they are, also from a root that cannot be written to.
    with tempfile.TemporaryDirectory() as unpacked:
        raw = Path(unpacked) / kind.__name__ / "raw"
        raw.mkdir(parents=True)
        for address, _ in kind.resources:
            packed = present / Path(address).name
            plain = packed.with_suffix("")
            if plain.is_file():
                _refuse_truncated(plain)
                (raw / plain.name).symlink_to(plain.resolve())
            elif packed.is_file():
                _unpack(packed, raw / plain.name)
        return kind(unpacked, train=True), kind(unpacked, train=False)


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, TORCHVISION[name])


def _refuse_truncated(plain: Path) -> None:
    """Raise DataUnavailable for an IDX file whose size is not what its header says."""
    with plain.open("rb") as file:
        magic = file.read(4)
        sizes = [int.from_bytes(file.read(4), "big") for _ in range(magic[3] if len(magic) == 4 else 0)]
    expected = 4 + 4 * len(sizes) + math.prod(sizes)
    if not sizes or plain.stat().st_size != expected:
        raise DataUnavailable(
            f"{plain} is damaged (it should hold {expected} bytes): remove it, and it will be fetched"
        )


def _unpack(packed: Path, plain: Path) -> None:
    try:
        with gzip.open(packed) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataUnavailable(f"{packed} is damaged ({error}): remove it, and it will be fetched again") from None


def _download(name: str, root: Path) -> tuple[Any, Any]:
    _torchvision_class(name)(str(root), train=True, download=True)
    return _read_present(name, root)


def _unpack_debian_package(name: str, root: Path) -> tuple[Any, Any]:
    """Fetch the package with apt, as any user may, and move its four .gz files under the root."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            _quietly(["apt-get", "download", DEBIAN_PACKAGE], work)
        except subprocess.CalledProcessError:
            # No package lists on this machine, or old ones: fetch them into a folder of our own.
            lists = ["-o", f"Dir::State={work}/state", "-o", f"Dir::Cache={work}/cache"]
            (work / "state/lists/partial").mkdir(parents=True)
            (work / "cache/archives/partial").mkdir(parents=True)
            _quietly(["apt-get", *lists, "update"], work)
            _quietly(["apt-get", *lists, "download", DEBIAN_PACKAGE], work)
        (package,) = work.glob(f"{DEBIAN_PACKAGE}*.deb")
        _quietly(["dpkg-deb", "-x", str(package), str(work / "unpacked")], work)
        raw = root / "FashionMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for packed in (work / "unpacked/usr/share/datasets/fashion-mnist").glob("*.gz"):
            # Through a neighbour of the target, so that no reader ever meets half a file.
            shutil.copyfile(packed, raw / f".{packed.name}.part")
            (raw / f".{packed.name}.part").replace(raw / packed.name)
    return _read_present(name, root)


def _quietly(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
