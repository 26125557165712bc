"""Sources of images: image folders, or a known data set.

A known data set is searched for in this order: files under the data root, torchvision's download and, for
Fashion-MNIST, Debian's package ``dataset-fashion-mnist``, unpacked without root privileges.
"""

import gzip
import math
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equisep.config import ConfigError, Dataset, EquisepError

DEBIAN_PACKAGE = "dataset-fashion-mnist"
COMMAND_TIMEOUT_S = 300
# Key of the mode of an image before its conversion, in the image's info.
ORIGINAL_MODE = "equisep.original_mode"
TORCHVISION = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10"}


class DataUnavailable(EquisepError):
    """A data set that no source provides or whose files are damaged; the message names the remedy."""


def load_image_folders(config: Dataset) -> tuple[Any, Any, str]:
    """Return training and test images of the user's own folders and a line on their origin.

    Raises DataUnavailable for a missing or empty folder, ConfigError for classes that are not in both splits.
    """
    return open_image_folders(Path(config.root) / config.name, "dataset.source=folder", len(config.mean or ()))


def open_image_folders(root: Path, field: str, channels: int) -> tuple[Any, Any, str]:
    """Return the images of ROOT/{train,test}/CLASS, grey for one channel and else RGB, and a line on their origin.

    field: what named the folder, for messages. Raises as :func:`load_image_folders`.
    """
    from torchvision import datasets

    mode = "L" if channels == 1 else "RGB"
    splits = []
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise DataUnavailable(f"{field}: no folder {folder}; create it with one folder per class")
        try:
            splits.append(datasets.ImageFolder(str(folder), loader=lambda path: _read_image(path, mode)))
        except FileNotFoundError as error:
            raise DataUnavailable(f"{field}: {str(error).splitlines()[0]}") from None
    train, test = splits
    if train.classes != test.classes:
        unmatched = sorted(set(train.classes) ^ set(test.classes))
        raise ConfigError(f"{field}: classes {unmatched} are not in both {root}/train and {root}/test")
    return train, test, f"folder {root}"


def _read_image(path: str, mode: str) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            converted = image.convert(mode)
            converted.info[ORIGINAL_MODE] = image.mode
            return converted
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read as an image ({error}): remove or replace it") from None


def load_torchvision(config: Dataset) -> tuple[Any, Any, str]:
    """Return training and test images of one of torchvision's data sets and a line on their origin.

    Raises DataUnavailable where no source provides it.
    """
    root = Path(config.root)
    attempts = [(_read_files, "files under {root}"), (_download, "torchvision's download to {root}")]
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
    reasons = "; ".join(failures)
    raise DataUnavailable(
        f"{config.name} could not be found or downloaded ({reasons}): put its files under {root} or set EQUISEP_DATA"
    )


def _read_files(name: str, root: Path) -> tuple[Any, Any]:
    kind = _torchvision_class(name)
    folder = root / kind.__name__ / "raw"
    if not hasattr(kind, "resources") or not folder.is_dir():
        return kind(str(root), train=True), kind(str(root), train=False)
    # The original .gz files are unpacked elsewhere, so that a read-only root works too.
    with tempfile.TemporaryDirectory() as unpacked:
        raw = Path(unpacked) / kind.__name__ / "raw"
        raw.mkdir(parents=True)
        for address, _ in kind.resources:
            packed = folder / Path(address).name
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
    """Raise DataUnavailable for an IDX file whose size does not match its header."""
    with plain.open("rb") as file:
        magic = file.read(4)
        sizes = [int.from_bytes(file.read(4), "big") for _ in range(magic[3] if len(magic) == 4 else 0)]
    expected = 4 + 4 * len(sizes) + math.prod(sizes)
    if not sizes or plain.stat().st_size != expected:
        raise DataUnavailable(f"{plain} is damaged (expected {expected} bytes): remove it; it will be fetched again")


def _unpack(packed: Path, plain: Path) -> None:
    try:
        with gzip.open(packed) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataUnavailable(f"{packed} is damaged ({error}): remove it; it will be fetched again") from None


def _download(name: str, root: Path) -> tuple[Any, Any]:
    with _folder_within(root) as folder:
        _torchvision_class(name)(str(folder), train=True, download=True)
        _move_files(folder, root)
    return _read_files(name, root)


def _unpack_debian_package(name: str, root: Path) -> tuple[Any, Any]:
    """Fetch the package with apt, which needs no privileges, and move its four .gz files under the root."""
    with _folder_within(root) as work:
        try:
            _execute(["apt-get", "download", DEBIAN_PACKAGE], work)
        except subprocess.CalledProcessError:
            # Package lists are missing or outdated: fetch them into a temporary folder.
            lists = ["-o", f"Dir::State={work}/state", "-o", f"Dir::Cache={work}/cache"]
            (work / "state/lists/partial").mkdir(parents=True)
            (work / "cache/archives/partial").mkdir(parents=True)
            _execute(["apt-get", *lists, "update"], work)
            _execute(["apt-get", *lists, "download", DEBIAN_PACKAGE], work)
        (package,) = work.glob(f"{DEBIAN_PACKAGE}*.deb")
        _execute(["dpkg-deb", "-x", str(package), str(work / "unpacked")], work)
        _move_files(work / "unpacked/usr/share/datasets/fashion-mnist", root / "FashionMNIST/raw")
    return _read_files(name, root)


@contextmanager
def _folder_within(root: Path) -> Iterator[Path]:
    """Create a temporary folder under the root, from which files can be moved into place atomically."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
        yield Path(folder).resolve()


def _move_files(folder: Path, target: Path) -> None:
    """Move each file of a folder tree atomically: other processes may read or fetch at the same time."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        destination = target / file.relative_to(folder)
        destination.parent.mkdir(parents=True, exist_ok=True)
        file.replace(destination)


def _execute(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
