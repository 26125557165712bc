"""Data sets of the user's own: classes, arrays, folders; what is no data set refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from equisep.config import ConfigError, EquisepError, compose_config
from equisep.data import load_data
from tests.conftest import run_one

DATA = """
import torch
from torch.utils.data import Dataset


class Points(Dataset):
    def __init__(self, train=True, count=60, classes=3):
        generator = torch.Generator().manual_seed(int(train))
        self.y = torch.arange(count) % classes + 5
        self.x = torch.randn(count, 7, generator=generator) + 4 * torch.eye(classes, 7)[self.y - 5]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


class Named(Points):
    classes = ["a", "b", "c"]

    def __init__(self, split):
        super().__init__(split == "train")
        self.targets = self.y - 5


class Varying(Points):
    def __getitem__(self, index):
        return self.x[index][: 7 - index % 2], int(self.y[index])


class Unlabelled(Points):
    def __getitem__(self, index):
        return self.x[index]


class Words(Points):
    def __getitem__(self, index):
        return self.x[index], "word"


class Huge(Points):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.empty(1).expand(1000, 1000, 100), index % 2

    targets = [0, 1] * (10**6 // 2)


class NotFinite(Points):
    def __getitem__(self, index):
        return self.x[index] * float("nan"), int(self.y[index])


class Complex(Points):
    def __getitem__(self, index):
        return self.x[index].to(torch.complex64), int(self.y[index])


class Number(Points):
    def __getitem__(self, index):
        return float(self.x[index][0]), int(self.y[index])


class Broken(Points):
    def __getitem__(self, index):
        raise KeyError("lost")


class Triples(Points):
    def __getitem__(self, index):
        return self.x[index], int(self.y[index]), 1


class OtherShape(Points):
    def __init__(self, train=True):
        super().__init__(train=train)
        self.x = self.x if train else self.x[:, :5]


class OneTestClass(Points):
    def __init__(self, train=True):
        super().__init__(train=train)
        self.y = self.y if train else torch.full_like(self.y, int(self.y[0]))


class Neither(Points):
    def __init__(self):
        super().__init__()
"""


@pytest.fixture
def own(own_modules: Callable[..., Path]) -> Path:
    return own_modules(own_data=DATA)


def custom(target: str, *words: str) -> list[str]:
    return ["dataset=custom", f"dataset.target={target}", *words]


def test_a_data_set_by_its_class_is_kept_as_it_is(own: Path) -> None:
    data = load_data(compose_config(custom("own_data.Points")).dataset)
    assert data.train.inputs.shape == (60, 7)
    # Labels 5, 6, 7 are classes 0, 1, 2.
    assert data.classes == ("5", "6", "7")
    assert data.train.labels.tolist()[:4] == [0, 1, 2, 0]
    assert not torch.equal(data.train.inputs, data.test.inputs)
    fewer = load_data(compose_config(custom("own_data.Points", "dataset.per_class=4")).dataset)
    assert torch.bincount(fewer.train.labels).tolist() == [4, 4, 4]
    assert len(fewer.test.labels) == 60
    named = load_data(compose_config(custom("own_data.Named")).dataset)
    assert named.classes == ("a", "b", "c")


def test_arrays_of_a_file_and_images_of_a_folder(own: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 6, 6), dtype=np.uint8)
    labels = np.arange(12) % 3
    arrays = {
        "train_inputs": images[:9],
        "train_labels": labels[:9],
        "test_inputs": images[9:],
        "test_labels": labels[9:],
    }
    np.savez("points.npz", **arrays)
    safetensors.numpy.save_file(arrays, "points.safetensors")
    for image, label, part in zip(images, labels, ["train"] * 9 + ["test"] * 3, strict=True):
        folder = own / "folder" / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{len(list(folder.iterdir()))}.png")
    expected = torch.from_numpy(images[:9]) / 255
    for target in ("points.npz", "points.safetensors"):
        data = load_data(compose_config(custom(target)).dataset)
        assert torch.equal(data.train.inputs, expected)
    scaled = ["dataset.mean=[0.5]", "dataset.std=[0.5]"]
    grey = load_data(compose_config(custom("folder", *scaled)).dataset)
    assert sorted(grey.train.inputs.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted((2 * expected - 1).sum((1, 2, 3)).tolist()), abs=1e-4
    )
    smaller = load_data(compose_config(custom("folder", "dataset.size=4")).dataset)
    assert smaller.train.inputs.shape == (9, 3, 4, 4)


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("own_data.Varying", [], r"point 1 has shape \(6,\), others \(7,\)"),
        ("own_data.Unlabelled", [], "its items are Tensor, not pairs of input and label"),
        ("own_data.Words", [], "labels must be integers, one per point, not str"),
        ("own_data.Huge", [], r"1,000,000 points of shape \(1000, 1000, 100\) take 400,000.0 GB"),
        ("own_data.NotFinite", [], "point 0 is not finite"),
        ("own_data.Complex", [], "an input is of torch.complex64; real arrays are needed"),
        ("own_data.Number", [], "an input is a single number"),
        ("own_data.Broken", [], "item 0 cannot be read .KeyError: 'lost'"),
        ("own_data.Triples", [], "its items are tuple of 3, not pairs of input and label"),
        ("own_data.OtherShape", [], r"training points have shape \(7,\), test points \(5,\)"),
        ("own_data.OneTestClass", [], "the test points have one class, two are needed"),
        ("own_data.Points", ["dataset.arguments.train=false"], "arguments.train=False: is set here, once for training"),
        ("no/folder", [], "no such folder, and no file of arrays"),
        ("own_data.Neither", [], "takes neither train=True nor split='train'"),
        ("own_data.Points", ["dataset.size=4"], r"an input of shape \(7,\) is no image"),
        ("own_data.Points", ["dataset.per_class=99"], "class 0 has 20 training images"),
        ("own_data.Points", ["dataset.arguments.classes=1"], "have one class, two are needed"),
        ("own_data.Points", ["dataset.arguments.sorted=1"], "unexpected keyword argument 'sorted'"),
        ("own_data.Points", ["dataset.mean=[0.5]"], "set dataset.mean and dataset.std, or neither"),
        ("nothing.npz", [], "no such file"),
        ("NoSuchSet", [], "torchvision.datasets has no NoSuchSet"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(own: Path, target: str, words: list[str], message: str) -> None:
    with pytest.raises(EquisepError, match=message) as raised:
        load_data(compose_config(custom(target, *words)).dataset)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_damaged_or_lacks_an_array(own: Path) -> None:
    (own / "points.npz").write_bytes(b"no zip")
    with pytest.raises(EquisepError, match=r"points\.npz: cannot be read"):
        load_data(compose_config(custom("points.npz")).dataset)
    np.savez("points.npz", train_inputs=np.zeros((4, 2)), train_labels=np.array([0, 1, 0, 1]), test_inputs=np.zeros(2))
    with pytest.raises(ConfigError, match="has no array test_labels"):
        load_data(compose_config(custom("points.npz")).dataset)


def test_it_trains_and_is_measured_like_ours(own: Path) -> None:
    words = custom("own_data.Points", "architecture.depth=3", "optimizer.learning_rate=1e-2", "training=smoke")
    outcome = run_one(compose_config([*words, "training.epochs=20", "tracking=off", f"results={own}"]))
    assert outcome.final is not None
    assert outcome.final.fuzziness[-1] < outcome.final.fuzziness[0]
    assert outcome.run.config()["dataset"]["name"] == "Points"
