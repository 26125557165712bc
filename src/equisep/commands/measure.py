"""``equisep measure``: the layers of a network of torchvision, timm or transformers on images in folders or arrays.

Nothing is fetched: weights and data are files on this machine, and no file is unpickled.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equisep.config.validation import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS, DATA = "torchvision:NAME, timm:NAME or hf:FOLDER", "folder:FOLDER, npz:FILE or safetensors:FILE"


@dataclass(frozen=True)
class Loaded:
    """A network with what its images are turned into. transform: of a PIL image, None where it states none."""

    network: nn.Module
    transform: Callable[[Any], torch.Tensor] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("network", help=f"{NETWORKS}, the last two where those packages are installed")
    parser.add_argument("--weights", help="a .safetensors file, or a .pt file of tensors alone (default: untrained)")
    parser.add_argument("--classes", type=int, help="outputs of the classifier (default: the network's)")
    parser.add_argument("--data", required=True, help=f"{DATA}; a folder has one of images per class")
    parser.add_argument("--held-out", help="the same, for accuracies on other points")
    parser.add_argument("--size", type=int, help="pixels, images are resized to a square (default: the network's own)")
    parser.add_argument("--per-class", type=int, help="the first so many points of each class (default: all)")
    parser.add_argument("--layers", default="auto", help="auto, or names and patterns, separated by commas")
    parser.add_argument("--metrics", help="separated by commas (default: all that stream)")
    parser.add_argument("--pooling", default="flatten", help="flatten, mean, first, last or each")
    parser.add_argument("--batch-norm", default="running", help="running, or batch as in the paper")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--memory", type=float, help="GB for features and class means (default: half of what is free)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--output", default="measured", help="folder of NAME.csv, .png and .json (default: measured)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write it with the figure; return the exit code."""
    import torch

    from equisep.execution import choose_device
    from equisep.measurement import measure

    device = choose_device(arguments.device)
    torch.manual_seed(0)
    loaded = load_network(arguments.network, arguments.classes)
    if arguments.weights:
        load_weights(loaded.network, Path(arguments.weights))
    chosen = arguments.layers.split(",")
    options: dict[str, Any] = {} if arguments.metrics is None else {"metrics": arguments.metrics.split(",")}
    data, held_out = (
        None if source is None else load_data(source, loaded, arguments.size, arguments.per_class, arguments.batch_size)
        for source in (arguments.data, arguments.held_out)
    )
    try:
        result = measure(
            loaded.network.eval().to(device),
            data,
            "auto" if chosen == ["auto"] else chosen,
            held_out=held_out,
            pooling=arguments.pooling,
            batch_norm=arguments.batch_norm,
            batch_size=arguments.batch_size,
            memory_limit=arguments.memory,
            **options,
        )
    except Exception as error:
        # Whatever a network raises about what it is given, or a reader about an image.
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"measure {arguments.network}: {problem}") from None
    print(result)
    if arguments.weights is None and not arguments.network.startswith("hf:"):
        print("warning: the network is untrained, since no --weights are given")
    folder, name = Path(arguments.output), arguments.network.split(":")[-1].strip("/").split("/")[-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.to_frame().to_csv(folder / f"{name}.csv", index=False)
        result.save(folder / f"{name}.json")
        written = [f"{name}.csv", f"{name}.json"]
        if all(math.isfinite(layer.metrics.get("fuzziness", math.nan)) for layer in result.layers):
            result.plot().savefig(folder / f"{name}.png")
            written.append(f"{name}.png")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}; choose a writable folder") from None
    print(f"written: {', '.join(str(folder / file) for file in written)}")
    return 0


def load_network(source: str, classes: int | None) -> Loaded:
    """Return an untrained network, or that of a transformers folder; raises ConfigError for an unknown one."""
    kind, _, name = source.partition(":")
    if not name or kind not in ("torchvision", "timm", "hf"):
        raise ConfigError(f"{source}: no such network; use {NETWORKS}")
    load = {"torchvision": _from_torchvision, "timm": _from_timm, "hf": _from_transformers}[kind]
    try:
        return load(name, classes)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{source}: needs {error.name}: pip install {error.name}") from None


def _from_torchvision(name: str, classes: int | None) -> Loaded:
    from torchvision import models

    from equisep.config import nearest

    known = models.list_models(models)
    if name not in known:
        raise ConfigError(
            f"torchvision:{name}: no such network{nearest(name, known)}; torchvision.models.list_models()"
        )
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        # Without their second outputs, which are for training.
        options |= {"init_weights": True, "aux_logits": False}
    return Loaded(models.get_model(name, weights=None, **options), _preset(models.get_model_weights(name)))


def _preset(weights: Any) -> Callable[[Any], torch.Tensor] | None:
    """Return the transform that torchvision states for a network's weights."""
    return next((entry.transforms() for entry in weights), None)


def _from_timm(name: str, classes: int | None) -> Loaded:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        network = timm.create_model(name, pretrained=False, **options)
    except RuntimeError as error:
        raise ConfigError(f"timm:{name}: {str(error).splitlines()[0]}; timm.list_models()") from None
    return Loaded(network, create_transform(**resolve_model_data_config(network), is_training=False))


def _from_transformers(name: str, classes: int | None) -> Loaded:
    import transformers

    if classes is not None:
        raise ConfigError(f"--classes {classes}: hf:{name} has a classifier of its own; leave it out")
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(name, local_files_only=True)
        processor = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"hf:{name}: no folder of a transformers image classifier ({problem})") from None
    return Loaded(network, lambda image: processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0])


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network; raises ConfigError for a file that is missing, unsafe or of another network."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state) if isinstance(state, dict) else state
        network.load_state_dict(state)
    except FileNotFoundError:
        raise ConfigError(f"--weights {path}: no such file") from None
    except (SafetensorError, OSError, EOFError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"--weights {path}: cannot be read ({str(error).splitlines()[0]})") from None
    except Exception as error:
        # torch raises a RuntimeError for other shapes, and an UnpicklingError for what it refuses to unpickle.
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"--weights {path}: not those of this network, or not tensors alone ({problem} …)") from None


def load_data(source: str, loaded: Loaded, size: int | None, per_class: int | None, batch_size: int) -> Any:
    """Return data for :func:`equisep.measure`; raises ConfigError for what cannot be read.

    size: pixels, None for the network's own. per_class: the first points of each class, None for all.
    """
    from torch.utils.data import DataLoader, Subset

    kind, _, name = source.partition(":")
    path = Path(name)
    if not name or kind not in ("folder", "npz", "safetensors"):
        raise ConfigError(f"--data {source}: use {DATA}")
    if kind != "folder":
        inputs, labels = _arrays(kind, path)
        chosen = _first_of_each(labels.tolist(), per_class)
        return inputs[chosen], labels[chosen]
    from torchvision.datasets import ImageFolder

    try:
        images = ImageFolder(name, transform=_transform(loaded, size))
    except (FileNotFoundError, OSError) as error:
        raise ConfigError(
            f"--data {source}: {str(error).splitlines()[0]}; a folder has one of images per class"
        ) from None
    # Folders are sorted by class, which would make batches of unlike classes.
    chosen = _first_of_each(images.targets, per_class)
    random.Random(0).shuffle(chosen)
    return DataLoader(Subset(images, chosen), batch_size=batch_size)


def _transform(loaded: Loaded, size: int | None) -> Callable[[Any], torch.Tensor]:
    from torchvision import transforms

    if size is None and loaded.transform is not None:
        return loaded.transform
    steps: list[Any] = [] if size is None else [transforms.Resize((size, size))]
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    chosen: Callable[[Any], torch.Tensor] = transforms.Compose(steps)
    return chosen


def _arrays(kind: str, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a file with arrays of these names."""
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arrays: Any = np.load(path, allow_pickle=False) if kind == "npz" else load_file(path)
        if not {"inputs", "labels"} <= set(arrays):
            raise ConfigError(f"--data {kind}:{path}: has {', '.join(arrays)}; it needs arrays inputs and labels")
        inputs, labels = (torch.as_tensor(arrays[name]) for name in ("inputs", "labels"))
    except FileNotFoundError:
        raise ConfigError(f"--data {kind}:{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--data {kind}:{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not inputs.is_floating_point():
        raise ConfigError(
            f"--data {kind}:{path}: inputs are {inputs.dtype}; store them as the network takes them, in float32"
        )
    return inputs, labels


def _first_of_each(labels: Sequence[int], count: int | None) -> list[int]:
    """Return the places of the first points of each class, in order; of all points where count is None."""
    if count is not None and count < 1:
        raise ConfigError(f"--per-class {count}: must be at least 1")
    seen: dict[int, int] = {}
    places = []
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if count is None or seen[label] <= count:
            places.append(place)
    return places
