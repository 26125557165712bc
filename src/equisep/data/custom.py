"""Data sets of the user's own: a map-style data set by its dotted path, or a file with arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from equisep.config import ConfigError, CustomDataset, call_target, find_target, parameters_of
from equisep.data.sources import DataUnavailable, open_image_folders
from equisep.process import free_bytes

# Names of the arrays of a file, and those that Keras's files have.
ARRAYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")
KERAS = ("x_train", "y_train", "x_test", "y_test")
# Attributes in which torchvision's data sets keep their labels.
LABELS = ("targets", "labels")
# Share of the free memory that the tensors of a data set may take.
MEMORY_SHARE = 0.5


class Points:
    """A split of a data set, point by point. labels: (n,) int64 tensor; classes: names, where the data set has them."""

    def __init__(self, items: Any, labels: Tensor, classes: Sequence[str] | None, name: str) -> None:
        self.items, self.labels, self.classes, self.name = items, labels, classes, name

    def inputs(self, indices: Sequence[int], config: CustomDataset) -> Tensor:
        """Return (n, …) float32 inputs of some points, resized and normalised as the config asks.

        Raises ConfigError for points of varying shapes or too many for the memory.
        """
        first = _as_tensor(_item(self.items, indices[0], config)[0], config, self.name)
        needed, free = first.nbytes * len(indices), free_bytes()
        if needed > MEMORY_SHARE * free:
            found = f"{len(indices):,} points of shape {tuple(first.shape)} take {needed / 1e9:,.1f} GB"
            remedy = f"{free / 1e9:,.1f} GB of memory are free: set dataset.per_class or a smaller dataset.size"
            raise ConfigError(f"dataset.target={config.target}: {self.name}: {found}, {remedy}")
        inputs = torch.empty(len(indices), *first.shape)
        for place, index in enumerate(indices):
            value = _as_tensor(_item(self.items, index, config)[0], config, self.name)
            if value.shape != first.shape:
                found = f"point {index} has shape {tuple(value.shape)}, others {tuple(first.shape)}"
                raise ConfigError(f"dataset.target={config.target}: {self.name}: {found}; set dataset.size for images")
            inputs[place] = value
        if not inputs.isfinite().all():
            where = int((~inputs.flatten(1).isfinite()).any(dim=1).nonzero()[0])
            raise ConfigError(f"dataset.target={config.target}: {self.name}: point {indices[where]} is not finite")
        return inputs


def load_points(config: CustomDataset) -> tuple[Points, Points, str]:
    """Return the training and test points of a custom data set, and a line on their origin.

    Raises ConfigError for a target that makes no data set or one without labels, DataUnavailable for a file that cannot
    be read.
    """
    if config.is_file:
        return _from_file(config)
    if config.is_folder:
        *opened, source = open_image_folders(
            Path(config.target), f"dataset.target={config.target}", len(config.mean or ())
        )
        train, test = (Points(items, torch.tensor(items.targets), items.classes, "images") for items in opened)
        return train, test, source
    splits = [_from_class(config, split) for split in ("train", "test")]
    return splits[0], splits[1], f"{config.class_path}"


def _from_file(config: CustomDataset) -> tuple[Points, Points, str]:
    path = Path(config.target)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files if name in (*ARRAYS, *KERAS)}
        else:
            arrays = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise DataUnavailable(f"dataset.target={path}: no such file") from None
    except Exception as error:
        raise DataUnavailable(f"dataset.target={path}: cannot be read ({str(error).splitlines()[0]})") from None
    names = KERAS if KERAS[0] in arrays else ARRAYS
    absent = [name for name in names if name not in arrays]
    if absent:
        raise ConfigError(f"dataset.target={path}: has no array {absent[0]}; it needs {', '.join(ARRAYS)}")
    splits = []
    for inputs, labels in ((names[0], names[1]), (names[2], names[3])):
        if len(arrays[inputs]) != len(arrays[labels]):
            found = f"{inputs} has {len(arrays[inputs])} points and {labels} {len(arrays[labels])}"
            raise ConfigError(f"dataset.target={path}: {found}")
        pairs = _Pairs(arrays[inputs])
        splits.append(Points(pairs, _as_labels(arrays[labels].flatten().tolist(), config), None, inputs))
    return splits[0], splits[1], f"file {path}"


class _Pairs:
    """Inputs as the items of a data set."""

    def __init__(self, inputs: Tensor) -> None:
        self.stored = inputs

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (self.stored[index],)


def _from_class(config: CustomDataset, split: str) -> Points:
    field, path = "dataset.target", config.class_path
    parameters = parameters_of(find_target(field, path))
    chosen = {"train": split == "train"} if "train" in parameters else {"split": split}
    if "train" not in parameters and "split" not in parameters:
        problem = "takes neither train=True nor split='train', by which training and test points are told apart"
        raise ConfigError(f"{field}={config.target}: {path.rpartition('.')[2]} {problem}")
    items = call_target(field, path, {**config.arguments, **chosen}, root=config.root)
    name = f"{split} points"
    if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
        kind = type(items).__name__
        raise ConfigError(f"{field}={config.target}: makes a {kind}, not a data set with a length and items")
    if len(items) == 0:
        raise ConfigError(f"{field}={config.target}: {name}: there are none")
    _label_of(_item(items, 0, config), config)
    labels = next((getattr(items, attribute) for attribute in LABELS if hasattr(items, attribute)), None)
    if labels is None or len(labels) != len(items):
        labels = [_label_of(_item(items, index, config), config) for index in range(len(items))]
    classes = getattr(items, "classes", None)
    listed = [str(one) for one in classes] if isinstance(classes, list | tuple) else None
    return Points(items, _as_labels(labels, config), listed, name)


def _item(items: Any, index: int, config: CustomDataset) -> Any:
    """Return an item of a data set; raises ConfigError, in one line, for what the user's code raises."""
    try:
        return items[index]
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ConfigError(f"dataset.target={config.target}: item {index} cannot be read ({reason})") from None


def _label_of(item: Any, config: CustomDataset) -> Any:
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        problem = f"its items are {found}, not pairs of input and label"
        raise ConfigError(f"dataset.target={config.target}: {problem}")
    return item[1]


def _as_labels(labels: Any, config: CustomDataset) -> Tensor:
    """Return labels as (n,) int64; raises ConfigError for others than integers."""
    try:
        tensor = torch.as_tensor(labels if isinstance(labels, Tensor) else [_plain(label) for label in labels])
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(0)
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex() or not len(tensor):
        found = type(labels[0]).__name__ if len(labels) else "none"
        raise ConfigError(f"dataset.target={config.target}: labels must be integers, one per point, not {found}")
    return tensor.long()


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, Tensor | np.generic) else label


def _as_tensor(value: Any, config: CustomDataset, name: str) -> Tensor:
    """Return an input as float32: intensities of images in 0 … 1, other values as they are; resized and normalised."""
    from torchvision import transforms
    from torchvision.transforms.functional import to_tensor

    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value)
    elif hasattr(value, "getbands"):
        tensor = to_tensor(value)
    else:
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            problem = f"an input is a {type(value).__name__}, not an image, a tensor or an array"
            raise ConfigError(f"dataset.target={config.target}: {name}: {problem}") from None
    if tensor.ndim == 0 or tensor.is_complex():
        found = "a single number" if tensor.ndim == 0 else f"of {tensor.dtype}"
        raise ConfigError(f"dataset.target={config.target}: {name}: an input is {found}; real arrays are needed")
    tensor = tensor / 255 if tensor.dtype == torch.uint8 else tensor.float()
    steps = [transforms.Resize((config.size, config.size), antialias=True)] if config.size else []
    steps += [transforms.Normalize(config.mean, config.std)] if config.mean and config.std else []
    if steps and tensor.ndim != 3:
        problem = f"an input of shape {tuple(tensor.shape)} is no image (channels, height, width)"
        raise ConfigError(f"dataset.target={config.target}: {problem}; set dataset.size, mean and std to null")
    try:
        for step in steps:
            tensor = step(tensor)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"dataset.target={config.target}: {str(error).splitlines()[0]}") from None
    return tensor if config.channel is None else tensor[config.channel : config.channel + 1]
