"""Typed configuration of a data set: one of ours, drawn from known images, or one of the user's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from equisep.config.targets import digest_of, find_target
from equisep.config.validation import is_positive, require, require_at_least, require_one_of

# Endings of files with arrays; every other target is the dotted path of a class or the name of one of torchvision's.
ARRAY_FILES = (".npz", ".safetensors")


@dataclass
class Dataset:
    """Images: the training subset drawn and normalised once, kept in memory."""

    SOURCES: ClassVar[tuple[str, ...]] = ("auto", "folder")
    name: str = MISSING
    """fashion_mnist, mnist or cifar10; with source=folder the name of any folder under root."""
    size: int | None = MISSING
    """Height and width after resizing, pixels, ≥ 1."""
    mean: list[float] | None = MISSING
    """Subtracted from intensities in 0 … 1, per channel; one value for grey images, three for colour."""
    std: list[float] | None = MISSING
    """Divisor of the centred intensities, per channel, > 0."""
    channel: int | None = None
    """The only channel to keep (0 red, 1 green, 2 blue); null keeps all."""
    per_class: int | None = MISSING
    """Training images per class, ≥ 1; null: all, or those of sizes."""
    sizes: list[int] | None = None
    """Training images of each class in label order; replaces per_class."""
    subset_seed: int = MISSING
    """Seed for drawing the training subset."""
    label_seed: int | None = None
    """Seed of a random permutation of the training labels, which keeps class sizes; null: true labels."""
    source: str = MISSING
    """auto: files under root, else a download; folder: ROOT/NAME/{train,test}/CLASS/*.png or another image format."""
    root: str = MISSING
    """Folder with the data sets."""

    def __post_init__(self) -> None:
        require_one_of("dataset.source", self.source, self.SOURCES)
        for name in ("size", "mean", "std"):
            require(
                getattr(self, name) is not None, f"dataset.{name}", "null", "set a value; null is for dataset=custom"
            )
        assert self.size is not None
        assert self.mean is not None
        assert self.std is not None
        require_at_least("dataset.size", self.size, 1)
        require(self.size <= 4096, "dataset.size", self.size, "must be at most 4096 pixels")
        require(len(self.mean) in (1, 3), "dataset.mean", self.mean, "must be one value (grey) or three (colour)")
        require(all(map(math.isfinite, self.mean)), "dataset.mean", self.mean, "must be finite")
        fits = len(self.std) == len(self.mean) and all(map(is_positive, self.std))
        require(fits, "dataset.std", self.std, "must be positive, with as many values as dataset.mean")
        require(0 <= self.subset_seed < 2**32, "dataset.subset_seed", self.subset_seed, "must be 0 … 4294967295")
        seeded = self.label_seed is None or 0 <= self.label_seed < 2**32
        require(seeded, "dataset.label_seed", self.label_seed, "must be 0 … 4294967295, or null for the true labels")
        in_range = self.channel is None or 0 <= self.channel < len(self.mean)
        require(in_range, "dataset.channel", self.channel, f"choose 0 … {len(self.mean) - 1}, or null for all")
        if self.sizes is not None:
            remedy = "replaces dataset.per_class; set one of the two to null"
            require(self.per_class is None, "dataset.sizes", self.sizes, remedy)
            usable = len(self.sizes) > 1 and min(self.sizes) >= 1
            require(usable, "dataset.sizes", self.sizes, "must be at least 1 image for each of two or more classes")
            return
        drawn = self.per_class is None or self.per_class >= 1
        require(drawn, "dataset.per_class", self.per_class, "must be at least 1, or null for all; or set dataset.sizes")


@dataclass
class CustomDataset(Dataset):
    """A data set of the user's own: a map-style data set by its dotted path, or a file with arrays.

    Its points may be of any shape. All fields but target and arguments mean what they do for images of ours, and may be
    null: then points keep their size and their values.
    """

    name: str = "custom"
    """In titles and tables; custom is replaced by the name of the target."""
    size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    per_class: int | None = None
    target: str = MISSING
    """Dotted path of a class or function that returns a map-style data set of (input, label) pairs, once with the
    argument train=True or split="train", once with train=False or split="test"; the name of one of torchvision's
    classes; a file, .npz or .safetensors, with the arrays train_inputs, train_labels, test_inputs, test_labels; or a
    folder of images, TARGET/{train,test}/CLASS/*.png or another format."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of target."""
    digest: str | None = None
    """SHA-256, 16 hex digits, of the file that defines target; filled in. The tensors have a digest of their own."""

    def __post_init__(self) -> None:
        if self.name == "custom":
            stored = self.is_file or self.is_folder
            self.name = Path(self.target).stem if stored else self.target.rpartition(".")[2]
        scaled = self.mean is not None
        alike = scaled == (self.std is not None)
        require(alike, "dataset.mean", self.mean, "set dataset.mean and dataset.std, or neither")
        require(scaled or self.channel is None, "dataset.channel", self.channel, "needs dataset.mean; set null")
        # What is given has to be as for images of ours.
        Dataset(
            name=self.name,
            size=1 if self.size is None else self.size,
            mean=self.mean or [0.0],
            std=self.std or [1.0],
            channel=self.channel,
            per_class=self.per_class,
            sizes=self.sizes,
            subset_seed=self.subset_seed,
            label_seed=self.label_seed,
            source=self.source,
            root=self.root,
        )
        if self.is_file or self.is_folder:
            require(not self.arguments, "dataset.arguments", self.arguments, "files take none; set {}")
        for name in ("train", "split"):
            remedy = "is set here, once for training and once for test points; leave it out"
            require(name not in self.arguments, f"dataset.arguments.{name}", self.arguments.get(name), remedy)
        missing = "/" in self.target and not (self.is_file or self.is_folder)
        require(not missing, "dataset.target", self.target, "no such folder, and no file of arrays")
        if not (self.is_file or self.is_folder) and self.digest is None:
            self.digest = digest_of(find_target("dataset.target", self.class_path))

    @property
    def is_file(self) -> bool:
        """Whether the target is a file with arrays."""
        return self.target.endswith(ARRAY_FILES)

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder of images, TARGET/{train,test}/CLASS/*.png or another format."""
        return Path(self.target).is_dir()

    @property
    def class_path(self) -> str:
        """The dotted path of the target; a name without a dot is one of torchvision's."""
        return self.target if "." in self.target else f"torchvision.datasets.{self.target}"


def dataset_kind(plain: Mapping[str, Any]) -> type[Dataset]:
    """Return the class of a data set's config in plain containers."""
    return CustomDataset if "target" in plain else Dataset
