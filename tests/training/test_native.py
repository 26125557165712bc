"""The native engine against the same network trained as a plain nn.Module."""

from __future__ import annotations

import copy
import ctypes
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from equisep.config import Training, compose_config
from equisep.config.schema import Phase
from equisep.data import Data, Split, load_data
from equisep.networks import FeedForwardNetwork
from equisep.training import Kernels, Member, NativeTraining, why_not_native
from equisep.training.kernels import compile_command
from equisep.training.reference import ReferenceTraining
from tests.data.test_dataset import DEVELOPMENT_DATA, needs_development_data
from tests.training.test_engines import OPTIMIZERS, TEN_STEPS, as_double

WHY_NOT = why_not_native(Kernels.FEED_FORWARD)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native engine: {WHY_NOT}")


NORMALISATIONS = {"none": (False, False), "batch": (True, False), "layer": (False, True)}


def network_of(
    split: Split, widths: list[int], *, norm: str = "batch", relu: bool = True, classes: int = 10
) -> FeedForwardNetwork:
    torch.manual_seed(3)
    batch_norm, layer_norm = NORMALISATIONS[norm]
    inputs = split.inputs[0].numel()
    network = FeedForwardNetwork(inputs, classes, widths, batch_norm=batch_norm, layer_norm=layer_norm, relu=relu)
    return network.to(split.inputs.dtype)


def pair(
    network: nn.Module, split: Split, training: Training, optimizer: str = "adam"
) -> tuple[NativeTraining, ReferenceTraining]:
    """Return the native training of a network, and the plain one of its copy."""
    plain = ReferenceTraining(copy.deepcopy(network), split, OPTIMIZERS[optimizer], training, 5)
    return NativeTraining([Member(network, split, OPTIMIZERS[optimizer], 5)], training), plain


def assert_same(trained: NativeTraining, plain: ReferenceTraining, epochs: int = 2) -> None:
    for _ in range(epochs):
        expected = plain.run_epoch()
        (epoch,) = trained.run_epoch()
        assert epoch.loss == pytest.approx(expected, rel=1e-9)
    for name, value in plain.network.state_dict().items():
        error = float((trained.weights(0)[name] - value).double().norm())
        # The derivative of a shift before another normalisation is zero, and rounding alone in the plain module.
        assert error <= 1e-8 * max(float(value.double().norm()), 1e-6), name


# One channel alone has no layer normalisation, and two have outputs of one size only.
SHAPES = [(norm, widths) for norm in ("batch", "layer") for widths in ([100] * 3, [100] * 7, [100] * 19, [257])]


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize(
    ("norm", "widths"), [*SHAPES, ("batch", [30, 1, 17, 300]), ("layer", [30, 7, 17, 300])], ids=str
)
def test_every_tensor_agrees_after_ten_steps_in_float64(
    fashion: Data, norm: str, widths: list[int], optimizer: str
) -> None:
    split = as_double(fashion.train)
    # 500 images are four batches of 116 and one of 36 per epoch.
    half = Split(split.inputs[::2], split.labels[::2])
    assert_same(*pair(network_of(half, widths, norm=norm), half, TEN_STEPS, optimizer))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("norm", list(NORMALISATIONS))
@pytest.mark.parametrize("batch_size", [3, 10, 18, 5000])
def test_any_batch_size_with_each_normalisation_and_rectifier(
    fashion: Data, norm: str, relu: bool, batch_size: int
) -> None:
    """Of 100 images the last batch has one, as many as the others, or 10; 5,000 are more than there are."""
    split = as_double(fashion.train)
    # One image has no variance: with batch normalisation such a batch size is refused.
    images = 99 if norm == "batch" and batch_size == 3 else 100
    split = Split(split.inputs[:images], split.labels[:images])
    training = replace(TEN_STEPS, batch_size=batch_size)
    network = network_of(split, [40, 20], norm=norm, relu=relu)
    assert_same(*pair(network, split, training, "momentum"), epochs=1)


@pytest.mark.parametrize(
    "dataset",
    [
        "fashion_mnist_32x32",
        *(pytest.param(name, marks=needs_development_data) for name in ("cifar10_10x10", "cifar10_32x32")),
    ],
)
def test_images_of_other_sizes_and_with_colours(dataset: str) -> None:
    folder = ["dataset.source=folder", f"dataset.root={DEVELOPMENT_DATA}"] if dataset.startswith("cifar") else []
    split = as_double(load_data(compose_config([f"dataset={dataset}", *folder]).dataset).train)
    few = Split(split.inputs[:300], split.labels[:300])
    assert_same(*pair(network_of(few, [50, 50]), few, TEN_STEPS))


@pytest.mark.parametrize("frozen_decay", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_frozen_layers_learn_nothing_and_decay_if_asked_to(
    fashion: Data, optimizer: str, frozen_decay: bool, norm: str
) -> None:
    """Against torch.optim with gradients of None, or zeros, in the layers outside the phase."""
    split = as_double(fashion.train)
    phases = [Phase(start=0, first=1, last=2), Phase(start=1, first=3, last=3), Phase(start=2, first=4, last=4)]
    training = replace(TEN_STEPS, epochs=3, phases=phases, frozen_decay=frozen_decay)
    network = network_of(split, [30, 30, 30], norm=norm)
    trained, plain = pair(network, split, training, optimizer)
    layers = plain.network.parameter_layers()  # type: ignore[operator]
    for phase in phases:

        def freeze(_: object, __: object, ___: object, phase: Phase = phase) -> None:
            for parameter, layer in zip(plain.network.parameters(), layers, strict=True):
                if not phase.first <= layer <= phase.last:
                    parameter.grad = torch.zeros_like(parameter) if frozen_decay else None

        hook = plain.update.register_step_pre_hook(freeze)
        assert_same(trained, plain, epochs=1)
        hook.remove()


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("rate", [1e3, 1e8, 1e25])
def test_a_network_diverges_in_the_epoch_in_which_the_plain_module_does(fashion: Data, norm: str, rate: float) -> None:
    network = network_of(fashion.train, [30] * 5, norm=norm)
    training = replace(TEN_STEPS, epochs=4, milestones=[])
    optimizer = replace(OPTIMIZERS["sgd"], learning_rate=rate)
    plain = ReferenceTraining(copy.deepcopy(network), fashion.train, optimizer, training, 5)
    trained = NativeTraining([Member(network, fashion.train, optimizer, 5)], training)
    expected = [np.isfinite(plain.run_epoch()) for _ in range(4)]
    assert [not trained.run_epoch()[0].diverged for _ in range(4)] == expected
    assert norm == "batch" or not all(expected)


def test_numbers_that_are_not_finite_are_not_swallowed(fashion: Data) -> None:
    for poison in (float("nan"), float("inf")):
        network = network_of(fashion.train, [30, 30])
        with torch.no_grad():
            network.hidden[0][0].weight[3, 4] = poison  # type: ignore[index]
        trained, plain = pair(network, fashion.train, TEN_STEPS)
        assert np.isnan(plain.run_epoch())
        assert np.isnan(trained.run_epoch()[0].loss)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_saved_state_resumes_bit_for_bit(fashion: Data, optimizer: str) -> None:
    phases = [Phase(start=0, first=1, last=2), Phase(start=2, first=1, last=4)]
    training = replace(TEN_STEPS, epochs=4, phases=phases)

    def start() -> NativeTraining:
        return pair(network_of(fashion.train, [30, 30, 30]), fashion.train, training, optimizer)[0]

    whole, resumed = start(), start()
    for _ in range(3):
        whole.run_epoch()
    resumed.load_state(copy.deepcopy(whole.state()))
    assert resumed.run_epoch() == whole.run_epoch()
    for name, value in whole.weights(0).items():
        assert torch.equal(value, resumed.weights(0)[name]), name


def test_bits_do_not_depend_on_threads_or_on_what_was_trained_before(fashion: Data) -> None:
    def losses() -> list[float]:
        trained, _ = pair(network_of(fashion.train, [100] * 3), fashion.train, TEN_STEPS)
        return [trained.run_epoch()[0].loss for _ in range(2)]

    expected = losses()
    # Memory that was used before holds other values, in the padding of rows too.
    poisoned = torch.full((10_000_000,), float("nan"))
    del poisoned
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert losses() == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the options are of x86")
@pytest.mark.parametrize("option", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors_give_the_same(fashion: Data, tmp_path: Path, option: str) -> None:
    library = tmp_path / "native.so"
    subprocess.run([*compile_command(Kernels.FEED_FORWARD), option, "-o", str(library)], check=True)
    kernels = ctypes.CDLL(str(library))
    split = as_double(fashion.train)
    for given in (split, fashion.train):
        network = network_of(given, [30, 1, 17, 100])
        plain = ReferenceTraining(copy.deepcopy(network), given, OPTIMIZERS["adam"], TEN_STEPS, 5)
        trained = NativeTraining([Member(network, given, OPTIMIZERS["adam"], 5)], TEN_STEPS, kernels=kernels)
        if given is split:
            assert_same(trained, plain)
        else:
            assert trained.run_epoch()[0].loss == pytest.approx(plain.run_epoch(), rel=1e-4)
