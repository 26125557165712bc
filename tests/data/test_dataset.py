from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import datasets

from equisep.config import ConfigError, compose_config
from equisep.data import Data, DataUnavailable, load_data
from equisep.data.dataset import draw_subset
from equisep.measures import separation_fuzziness

DEVELOPMENT_DATA = os.environ.get("EQUISEP_TEST_DATA", "")
needs_development_data = pytest.mark.skipif(
    not DEVELOPMENT_DATA, reason="EQUISEP_TEST_DATA names no folder of MNIST and CIFAR-10"
)


def test_fashion_mnist_is_the_released_subset_and_the_whole_test_set(fashion: Data) -> None:
    assert fashion.train.inputs.shape == (1000, 1, 10, 10)
    assert fashion.train.inputs.dtype == torch.float32
    assert torch.bincount(fashion.train.labels).tolist() == [100] * 10
    assert fashion.test.inputs.shape == (10_000, 1, 10, 10)
    assert separation_fuzziness(fashion.train.inputs, fashion.train.labels) == pytest.approx(36.8143, rel=1e-5)
    assert fashion.classes[0] == "T-shirt/top"
    assert -1 <= fashion.train.inputs.min() < fashion.train.inputs.max() <= 1


def test_the_subset_equals_that_of_a_loader_of_single_images() -> None:
    labels = torch.arange(50) % 5
    torch.manual_seed(666)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(50)), batch_size=1, shuffle=True)
    expected: list[int] = []
    for (index,) in loader:
        if sum(labels[i] == labels[index] for i in expected) < 3:
            expected.append(int(index))
    before = torch.random.get_rng_state()
    assert draw_subset(labels, [3] * 5, seed=666).tolist() == expected
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_subset_seed_changes_the_subset_and_its_digest(fashion: Data) -> None:
    other = load_data(compose_config(["dataset.subset_seed=667"]).dataset)
    assert other.train.digest != fashion.train.digest
    assert other.test.digest == fashion.test.digest


def test_random_labels_permute_those_of_the_training_set_only(fashion: Data) -> None:
    permuted = load_data(compose_config(["dataset.label_seed=0"]).dataset)
    assert torch.equal(permuted.train.inputs, fashion.train.inputs)
    assert torch.bincount(permuted.train.labels).tolist() == [100] * 10
    # One label in ten is correct by chance.
    assert 0.05 < (permuted.train.labels == fashion.train.labels).double().mean() < 0.15
    assert permuted.test.digest == fashion.test.digest
    again, other = (load_data(compose_config([f"dataset.label_seed={seed}"]).dataset) for seed in (0, 1))
    assert again.train.digest == permuted.train.digest != other.train.digest


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(ConfigError, match="3 images requested, but class 1 has 2"):
        draw_subset(torch.tensor([0, 0, 0, 1, 1]), [3, 3], seed=0)


def write_tree(root: Path, name: str, fashion: Data, per_class: int = 4) -> None:
    for part, split in (("train", fashion.train), ("test", fashion.test)):
        for label in range(10):
            folder = root / name / part / f"class_{label}"
            folder.mkdir(parents=True)
            for number, image in enumerate(split.inputs[split.labels == label][:per_class]):
                Image.fromarray(((image[0] + 1) * 127.5).round().byte().numpy()).save(folder / f"{number}.png")


def test_image_folders_of_the_user_are_loaded(tmp_path: Path, fashion: Data) -> None:
    write_tree(tmp_path, "mine", fashion)
    config = compose_config(
        ["dataset.source=folder", "dataset.name=mine", f"dataset.root={tmp_path}", "dataset.per_class=3"]
    )
    data = load_data(config.dataset)
    assert data.classes == tuple(f"class_{label}" for label in range(10))
    assert data.train.inputs.shape == (30, 1, 10, 10)
    assert data.test.inputs.shape == (40, 1, 10, 10)
    originals = fashion.test.inputs[fashion.test.labels == 0][:4]
    torch.testing.assert_close(data.test.inputs[:4], originals, atol=1 / 127, rtol=0)


def test_what_is_done_to_images_of_other_sizes_and_colours_is_said(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in "ab":
            folder = tmp_path / "mine" / part / label
            folder.mkdir(parents=True)
            Image.new("RGB", (64, 48), (200, 10, 10)).save(folder / "1.png")
            Image.new("L", (12, 12), 100).save(folder / "2.png")
    folder = ["dataset.source=folder", "dataset.name=mine", f"dataset.root={tmp_path}", "dataset.per_class=2"]
    assert load_data(compose_config(folder).dataset).preparation == (
        "12×12 to 64×48 resized to 10×10 pixels; not keeping the aspect ratio; RGB converted to grey; "
        "normalised with mean 0.5, standard deviation 0.5"
    )
    green = load_data(compose_config(["dataset=cifar10_10x10", *folder]).dataset)
    assert green.preparation.split("; ")[2:] == [
        *("L converted to RGB", "channel 1 alone"),
        "normalised with mean 0.4914, 0.4822, 0.4465, standard deviation 0.247, 0.243, 0.261",
    ]
    assert green.train.inputs.shape == (4, 1, 10, 10)


def test_faulty_image_folders_raise_an_error_that_names_the_fault(tmp_path: Path, fashion: Data) -> None:
    config = compose_config(["dataset.source=folder", "dataset.name=mine", f"dataset.root={tmp_path}"]).dataset
    with pytest.raises(DataUnavailable, match="no folder .*mine/train"):
        load_data(config)
    write_tree(tmp_path, "mine", fashion, per_class=1)
    (tmp_path / "mine/test/class_9/0.png").write_bytes(b"not an image")
    config.per_class = 1
    with pytest.raises(DataUnavailable, match="class_9/0.png cannot be read"):
        load_data(config)
    (tmp_path / "mine/test/class_9/0.png").unlink()
    (tmp_path / "mine/test/class_9").rename(tmp_path / "mine/test/class_x")
    with pytest.raises((ConfigError, DataUnavailable), match="class_"):
        load_data(config)


def test_an_unknown_name_raises_an_error() -> None:
    with pytest.raises(ConfigError, match="dataset.name=imagenet"):
        load_data(compose_config(["dataset.name=imagenet"]).dataset)


def test_existing_files_are_used_packed_or_not_and_damaged_files_are_named(tmp_path: Path, fashion: Data) -> None:
    source = Path(os.environ["EQUISEP_DATA"]) / "FashionMNIST/raw"
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for packed in source.glob("*.gz"):
        (raw / packed.name).write_bytes(packed.read_bytes())
    config = compose_config([f"dataset.root={tmp_path}"]).dataset
    data = load_data(config)
    assert data.source == f"fashion_mnist: files under {tmp_path}"
    assert data.preparation == "28×28 resized to 10×10 pixels; normalised with mean 0.5, standard deviation 0.5"
    assert data.train.digest == fashion.train.digest
    again = load_data(config)
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert (again.classes, again.source, again.preparation) == (data.classes, data.source, data.preparation)
    (prepared,) = tmp_path.glob("prepared/*")
    prepared.write_bytes(prepared.read_bytes()[:500])
    with pytest.raises(DataUnavailable, match="is damaged"):
        load_data(config)
    prepared.unlink()
    plain = raw / "t10k-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress((raw / "t10k-labels-idx1-ubyte.gz").read_bytes())[:-1])
    with pytest.raises(DataUnavailable, match=r"t10k-labels-idx1-ubyte is damaged .*10008 bytes"):
        load_data(config)
    plain.unlink()
    packed = raw / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:1000])
    with pytest.raises(DataUnavailable, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load_data(config)


def test_an_unavailable_data_set_raises_an_error_that_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", no_network)
    with pytest.raises(DataUnavailable, match=f"network is unreachable.*{tmp_path}"):
        load_data(compose_config(["dataset=mnist_10x10", f"dataset.root={tmp_path}"]).dataset)


@needs_development_data
def test_mnist_from_its_original_files(tmp_path: Path) -> None:
    (tmp_path / "MNIST").symlink_to(f"{DEVELOPMENT_DATA}/MNIST")
    data = load_data(compose_config(["dataset=mnist_10x10", f"dataset.root={tmp_path}"]).dataset)
    assert data.train.inputs.shape == (1000, 1, 10, 10)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@needs_development_data
def test_cifar10_from_images_keeps_the_green_channel() -> None:
    folder = ["dataset.source=folder", f"dataset.root={DEVELOPMENT_DATA}"]
    green = load_data(compose_config(["dataset=cifar10_10x10", *folder]).dataset)
    assert green.train.inputs.shape == (1000, 1, 10, 10)
    colour = load_data(compose_config(["dataset=cifar10_10x10", "dataset.channel=null", *folder]).dataset)
    assert torch.equal(colour.train.inputs[:, 1:2], green.train.inputs)
    assert green.classes[:2] == ("airplane", "automobile")


def test_imbalanced_classes_are_drawn_by_size_and_the_test_set_is_complete(fashion: Data) -> None:
    data = load_data(compose_config(["dataset=fashion_mnist_10x10_imbalanced"]).dataset)
    assert torch.bincount(data.train.labels).tolist() == [500] * 5 + [100] * 5
    assert data.test.digest == fashion.test.digest
    # The first hundred of each class are those of the balanced draw.
    for label in range(10):
        first = data.train.inputs[data.train.labels == label][:100]
        assert torch.equal(first, fashion.train.inputs[fashion.train.labels == label])


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (["dataset.per_class=null", "dataset.sizes=[1,2,3]"], "3 sizes for the 10 classes of fashion_mnist .T-"),
        (["dataset.per_class=6001"], "6001 .*class 0 has 6000"),
        (["dataset.per_class=null", f"dataset.sizes={[1] * 9 + [6001]}"], "6001 .*class 9"),
        (["dataset.sizes=[1,2]"], "dataset.sizes=.*dataset.per_class"),
        (["dataset.per_class=null", "dataset.sizes=[0,2]"], "dataset.sizes=.*at least 1"),
        (["dataset.per_class=0"], "dataset.per_class=0.*or null for all; or set dataset.sizes"),
    ],
)
def test_invalid_class_sizes_raise_an_error(overrides: list[str], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        load_data(compose_config(overrides).dataset)


def test_fashion_mnist_at_32_pixels(fashion: Data) -> None:
    data = load_data(compose_config(["dataset=fashion_mnist_32x32"]).dataset)
    assert data.train.inputs.shape == (1000, 1, 32, 32)
    assert torch.equal(data.train.labels, fashion.train.labels)
    # Normalised with mean and standard deviation of the training set.
    assert data.test.inputs.mean().abs() < 0.05
    assert data.test.inputs.std() == pytest.approx(1, abs=0.05)


@needs_development_data
def test_mnist_and_cifar10_at_32_pixels(tmp_path: Path) -> None:
    (tmp_path / "MNIST").symlink_to(f"{DEVELOPMENT_DATA}/MNIST")
    grey = load_data(compose_config(["dataset=mnist_32x32", f"dataset.root={tmp_path}"]).dataset)
    assert grey.train.inputs.shape == (1000, 1, 32, 32)
    folder = ["dataset.source=folder", f"dataset.root={DEVELOPMENT_DATA}"]
    colour = load_data(compose_config(["dataset=cifar10_32x32", *folder]).dataset)
    assert colour.train.inputs.shape == (1000, 3, 32, 32)
    assert colour.test.inputs.shape == (1000, 3, 32, 32)
    small = load_data(compose_config(["dataset=cifar10_10x10", *folder]).dataset)
    assert torch.equal(small.train.labels, colour.train.labels)
