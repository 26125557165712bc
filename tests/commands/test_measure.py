"""``equisep measure``: networks, weights and data from files, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import equisep
from equisep.commands.main import main
from equisep.data import Data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, fashion: Data) -> Path:
    """Real images of Fashion-MNIST in a folder per class and as arrays; weights of an untrained network."""
    folder = tmp_path_factory.mktemp("measure")
    images, labels = fashion.train.inputs[:, 0], fashion.train.labels
    scaled = ((images - images.min()) / (images.max() - images.min()) * 255).byte().numpy()
    for place, (image, label) in enumerate(zip(scaled[:200], labels[:200].tolist(), strict=True)):
        target = folder / f"images/class_{label}/{place:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(target)
    inputs = torch.nn.functional.interpolate(fashion.train.inputs[:100].repeat(1, 3, 1, 1), 32)
    np.savez(folder / "arrays.npz", inputs=inputs.numpy(), labels=labels[:100].numpy())
    save_file({"inputs": inputs, "labels": labels[:100]}, folder / "arrays.safetensors")
    np.savez(folder / "other.npz", images=inputs.numpy())
    torch.manual_seed(5)
    network = torchvision.models.squeezenet1_1(num_classes=10)
    save_file(network.state_dict(), folder / "weights.safetensors")
    torch.save({"state_dict": network.state_dict()}, folder / "weights.pt")
    (folder / "code.pt").write_bytes(pickle.dumps(Path("x")))
    np.savez(folder / "bytes.npz", inputs=inputs.byte().numpy(), labels=labels[:100].numpy())
    (folder / "empty").mkdir()
    return folder


def test_folders_and_arrays_are_measured_and_written(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=10).eval()
    network.load_state_dict(torch.load(files / "weights.pt", weights_only=True)["state_dict"])
    arrays = np.load(files / "arrays.npz")
    expected = equisep.measure(network, (arrays["inputs"], arrays["labels"]))
    for weights in ("weights.safetensors", "weights.pt"):
        for data in ("npz:{}/arrays.npz", "safetensors:{}/arrays.safetensors"):
            output = tmp_path / weights / data[:3]
            words = ["torchvision:squeezenet1_1", "--classes", "10", "--weights", str(files / weights)]
            assert main(["measure", *words, "--data", data.format(files), "--output", str(output)]) == 0
            table = pd.read_csv(output / "squeezenet1_1.csv")
            assert table["fuzziness"].tolist() == pytest.approx(list(expected.fuzziness), rel=1e-6)
            again = equisep.NetworkMeasurement.load(output / "squeezenet1_1.json")
            assert str(again) in capsys.readouterr().out
            with Image.open(output / "squeezenet1_1.png") as image:
                assert min(image.size) > 300


def test_images_are_resized_and_chosen(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["torchvision:squeezenet1_1", "--data", f"folder:{files}/images", "--size", "32", "--per-class", "3"]
    words += ["--held-out", f"folder:{files}/images", "--layers", "features.[36],classifier.1:input", "--metrics"]
    assert main(["measure", *words, "fuzziness,ncm_accuracy", "--output", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "squeezenet1_1.json").read_text())
    assert [layer["name"] for layer in stored["layers"]] == ["input", "features.3", "features.6", "classifier.1:input"]
    assert [layer["points"] for layer in stored["layers"]] == [30] * 4
    assert list(stored["layers"][1]["metrics"]) == ["fuzziness", "ncm_accuracy", "ncm_accuracy_held_out"]
    assert "warning: the network is untrained" in capsys.readouterr().out


def test_an_image_classifier_of_transformers_is_read_from_its_folder(files: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    network = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=10, **sizes))
    network.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    words = [f"hf:{tmp_path}/vit", "--data", f"folder:{files}/images", "--metrics", "fuzziness"]
    assert main(["measure", *words, "--output", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "vit.csv")
    assert table["layer"].tolist() == ["input", "vit.layers.0", "vit.layers.1"]
    assert (table["fuzziness"] > 0).all()


MISTAKES = {
    "resnet18 --data npz:F/arrays.npz": "resnet18: no such network; use torchvision:NAME, timm:NAME or hf:FOLDER",
    "torchvision:resnet81 --data npz:F/arrays.npz": "torchvision:resnet81: no such network; did you mean resnet18",
    "torchvision:resnet18 --data F/images": "use folder:FOLDER, npz:FILE or safetensors:FILE",
    "torchvision:resnet18 --data folder:F/none": "a folder has one of images per class",
    "torchvision:resnet18 --data folder:F/empty": "a folder has one of images per class",
    "torchvision:resnet18 --data npz:F/none.npz": "none.npz: no such file",
    "torchvision:resnet18 --data npz:F/other.npz": "other.npz: has images; it needs arrays inputs and labels",
    "torchvision:resnet18 --data npz:F/code.pt": "code.pt: cannot be read",
    "torchvision:resnet18 --data npz:F/arrays.npz --weights F/none.pt": "none.pt: no such file",
    "torchvision:resnet18 --data npz:F/arrays.npz --weights F/code.pt": "not those of this network, or not tensors",
    "torchvision:resnet18 --data npz:F/arrays.npz --weights F/weights.pt": "not those of this network",
    "torchvision:resnet18 --data npz:F/arrays.npz --weights F/arrays.npz": "not those of this network, or not tensors",
    "torchvision:resnet18 --data npz:F/arrays.npz --layers layer9": "layer 'layer9': no such module; choose from conv1",
    "torchvision:resnet18 --data npz:F/arrays.npz --metrics nc9": "metrics: 'nc9'; choose from fuzziness",
    "torchvision:resnet18 --data npz:F/arrays.npz --per-class 0": "--per-class 0: must be at least 1",
    "torchvision:resnet18 --data npz:F/arrays.npz --device tpu": "no such device",
    "torchvision:vit_b_16 --data npz:F/arrays.npz": "Wrong image height! Expected 224 but got 32!",
    "torchvision:resnet18 --data npz:F/bytes.npz": "bytes.npz: inputs are torch.uint8; store them",
    "torchvision:resnet18": "the following arguments are required: --data",
    "torchvision:lenet --data npz:F/arrays.npz": "torchvision:lenet: no such network",
    "timm:resnet18 --data npz:F/arrays.npz": "timm",
    "hf:F/empty --data npz:F/arrays.npz": "transformers",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line(typed: str, files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = typed.replace("F/", f"{files}/").split()
    assert main(["measure", *words, "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert MISTAKES[typed] in line


def test_an_output_that_cannot_be_written_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["torchvision:squeezenet1_1", "--data", f"npz:{files}/arrays.npz", "--output", f"{files}/weights.pt/x"]
    assert main(["measure", *words]) == 2
    assert "choose a writable folder" in capsys.readouterr().err
