"""The native engine for convolutional networks against torch's operations and the plain nn.Module."""

from __future__ import annotations

import copy
import ctypes
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equisep.config import Training, compose_config
from equisep.data import Data, Split
from equisep.networks import Network, build_network
from equisep.training import Kernels, Member, image_operations, kernels, kernels_of, native_trainer, why_not_native
from equisep.training.convolutions import NativeConvolutionalTraining, NativeConvolutions
from equisep.training.reference import ReferenceTraining
from tests.training.test_engines import OPTIMIZERS

WHY_NOT = why_not_native(Kernels.CONVOLUTIONS)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native engine: {WHY_NOT}")

FAMILIES = [
    "vgg11 architecture.width_multiplier=0.125",
    pytest.param("alexnet architecture.width_multiplier=0.125", marks=pytest.mark.slow),
    "resnet_mixed architecture.blocks=[2,3] architecture.kernels=[3,5]",
    "densenet architecture.width_multiplier=0.25 architecture.blocks=[2,2]",
]


ONE_STEP = Training(epochs=1, batch_size=50, milestones=[], decay=0.1, snapshots=[])


def same_as_torch(network: nn.Module, images: Tensor) -> None:
    """Compare loss, gradients and running statistics of a training step."""
    labels = torch.arange(len(images)) % 3
    plain = copy.deepcopy(network)
    program = NativeConvolutions([network])
    loss, _ = program.step(images[None], labels[None])
    expected = cross_entropy(plain.train()(images), labels)
    torch.testing.assert_close(loss[0], expected.detach())
    tolerance = 1e-10 if images.dtype == torch.float64 else 1e-3
    for gradient, value in zip(program.gradients, torch.autograd.grad(expected, list(plain.parameters())), strict=True):
        assert float((gradient[0] - value).norm()) <= tolerance * max(1.0, float(value.norm()))
    for name, value in plain.named_buffers():
        torch.testing.assert_close(dict(network.named_buffers())[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("images", [1, 5, 8, 16, 23, 64, 65, 104, 130])
@pytest.mark.parametrize(
    ("inputs", "outputs", "height", "width", "kernel"),
    [(1, 1, 4, 4, 1), (3, 7, 5, 3, 3), (13, 8, 2, 2, 5), (2, 25, 1, 3, 7), (20, 11, 6, 1, 3)],
)
def test_a_convolution_and_its_derivatives_are_torchs(
    inputs: int, outputs: int, height: int, width: int, kernel: int, images: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.ReLU(),
        nn.Conv2d(outputs, 2, kernel, padding=kernel // 2, bias=False),
        nn.Flatten(),
        nn.Linear(2 * height * width, 3),
    )
    same_as_torch(network.to(dtype), torch.randn(images, inputs, height, width, dtype=dtype))


@pytest.mark.parametrize("images", [2, 17, 300])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_normalisation_and_its_derivatives_are_torchs(images: int, rectified: bool, biased: bool) -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(5, momentum=0.3, eps=0.01), nn.BatchNorm1d(6)
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    rectifiers = [nn.ReLU()] if rectified else []
    network = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=biased),
        norms[0],
        *rectifiers,
        nn.Flatten(),
        nn.Linear(5 * 9, 6, bias=biased),
        norms[1],
        *rectifiers,
        nn.Linear(6, 3),
    )
    # Far from zero: the variance must not be lost.
    same_as_torch(network.double(), torch.randn(images, 2, 3, 3, dtype=torch.float64) + 1e3)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(3, stride=1),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3),
        nn.AdaptiveAvgPool2d(1),
    ],
    ids=str,
)
def test_pooling_and_its_derivatives_are_torchs(pool: nn.Module) -> None:
    """Of rectified features, in which zeros are equal: the first of the largest has the derivative."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.ReLU(), pool, nn.Flatten()]
    images = torch.randn(19, 1, 7, 6, dtype=torch.float64)
    features = nn.Sequential(*first).double()(images).shape[1]
    same_as_torch(nn.Sequential(*first, nn.Linear(features, 3)).double(), images)


def network_of(name: str, dtype: torch.dtype = torch.float64) -> Network:
    architecture, *overrides = name.split()
    config = compose_config([f"architecture={architecture}", "optimizer.learning_rate=1e-3", *overrides])
    return build_network(config.architecture, (1, 32, 32), 10, 1).to(dtype)


def images_of(data: Data, dtype: torch.dtype = torch.float64) -> Split:
    images = torch.nn.functional.interpolate(data.train.inputs[:50].to(dtype), size=32)
    return Split(images, data.train.labels[:50])


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_agrees_with_the_plain_module(fashion: Data, name: str, optimizer: str) -> None:
    """Two epochs with a batch of 40 and one of 10, float64."""
    training = Training(epochs=2, batch_size=40, milestones=[1], decay=0.1, snapshots=[])
    network, split = network_of(name), images_of(fashion)
    plain = ReferenceTraining(copy.deepcopy(network), split, OPTIMIZERS[optimizer], training, 5)
    trained = native_trainer([Member(network, split, OPTIMIZERS[optimizer], 5)], training)
    assert isinstance(trained, NativeConvolutionalTraining)
    for _ in range(2):
        expected = plain.run_epoch()
        assert trained.run_epoch()[0].loss == pytest.approx(expected, rel=1e-9)
    weights = trained.weights(0)
    for key, value in plain.network.state_dict().items():
        # A bias before normalisation has no derivative, and rounding alone in the plain module.
        error = float((weights[key] - value).double().norm())
        assert error <= 1e-8 * float(value.double().norm()) + 1e-9 or is_normalised_bias(network, key), key


def is_normalised_bias(network: nn.Module, key: str) -> bool:
    """Whether a parameter is the bias of a convolution or hidden linear layer, or its mean, which it only shifts."""
    modules = dict(network.named_modules())
    module, _, kind = key.rpartition(".")
    biased = isinstance(modules[module], nn.Conv2d | nn.Linear) and kind == "bias" and module != "classifier"
    return biased or (kind == "running_mean" and getattr(modules[module[:-1] + "0"], "bias", None) is not None)


@pytest.mark.parametrize("name", FAMILIES[:1] + FAMILIES[2:])
def test_a_saved_state_resumes_bit_for_bit_with_any_number_of_threads(fashion: Data, name: str) -> None:
    training = Training(epochs=3, batch_size=23, milestones=[1], decay=0.1, snapshots=[])
    split = images_of(fashion, torch.float32)

    def start() -> NativeConvolutionalTraining:
        member = Member(network_of(name, torch.float32), split, OPTIMIZERS["adam"], 5)
        return NativeConvolutionalTraining([member], training)

    whole, resumed = start(), start()
    for _ in range(2):
        whole.run_epoch()
    state = copy.deepcopy(whole.state())
    resumed.load_state(state)
    expected = whole.run_epoch()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert resumed.run_epoch() == expected
    finally:
        torch.set_num_threads(threads)
    for key, value in whole.weights(0).items():
        assert torch.equal(value, resumed.weights(0)[key]), key


def test_numbers_that_are_not_finite_are_not_swallowed(fashion: Data) -> None:
    split = images_of(fashion, torch.float32)
    for name in (FAMILIES[0], FAMILIES[2]):
        for poison in (float("nan"), float("inf")):
            network = network_of(str(name), torch.float32)
            with torch.no_grad():
                next(network.parameters())[0, 0, 0, 0] = poison
            trained = native_trainer([Member(network, split, OPTIMIZERS["sgd"], 5)], ONE_STEP)
            assert torch.tensor(trained.run_epoch()[0].loss).isnan()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(4, 4, 2, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((2, 2)),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d((2, 2)),
        nn.AvgPool2d(2, divisor_override=3),
        nn.Flatten(2),
        nn.ReLU(inplace=True),
        nn.Tanh(),
        nn.Dropout(),
    ],
    ids=str,
)
def test_an_operation_that_has_no_kernel_is_refused(layer: nn.Module) -> None:
    def layers(*more: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), *more, nn.Flatten(), nn.Linear(8, 3))

    NativeConvolutions([layers()])
    with pytest.raises(NotImplementedError, match="no operation for"):
        NativeConvolutions([layers(layer)])
    # Of our families alone it is known that every operation has one.
    assert kernels_of(layers()) is None


class Uses(nn.Module):
    """Batch normalisation and convolutions whose results are used in several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.convolution = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        if kind in ("two norms", "before", "joined"):
            self.other = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(2 * 9, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        match self.kind:
            case "twice":
                features = self.norm(features) + self.norm(features)
            case "itself":
                normalised = self.norm(features)
                features = self.relu(normalised) + normalised
            case "two norms":
                features = self.relu(self.norm(features) + self.other(features))
            case "before":
                features = self.relu(images + self.norm(features)) + self.other(features)
            case "joined":
                features = self.relu(self.other(torch.cat([features[:, :0], features], dim=1)))
        logits: Tensor = self.linear(features.flatten(start_dim=1))
        return logits


@pytest.mark.parametrize("kind", ["twice", "itself", "two norms", "before"])
def test_results_that_are_used_several_times_are_not_lost_by_fusing(kind: str) -> None:
    torch.manual_seed(0)
    same_as_torch(Uses(kind).double(), torch.randn(20, 2, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["joined"])
def test_an_unknown_call_is_refused(kind: str) -> None:
    with pytest.raises(NotImplementedError, match="no operation for"):
        NativeConvolutions([Uses(kind)])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the options are of x86")
@pytest.mark.parametrize("option", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors_give_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str) -> None:
    library = tmp_path / "kernels.so"
    command = kernels.compile_command(Kernels.CONVOLUTIONS)
    subprocess.run([*command, option, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    monkeypatch.setattr(image_operations, "load_kernels", lambda which: loaded)
    for name in (FAMILIES[0], FAMILIES[2], FAMILIES[3]):
        images = torch.randn(37, 1, 32, 32, dtype=torch.float64)
        same_as_torch(network_of(str(name)), images)
