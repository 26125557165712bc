"""A network of the user's own: built by its dotted path, its layers chosen and its output checked before any work."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.parameter import UninitializedParameter

from equisep.config import (
    Architecture,
    ConfigError,
    Custom,
    EquisepError,
    call_target,
    describe_error,
    digest_of,
    find_target,
    place_of,
)
from equisep.networks.network import Network

# Returns the names of a module's layers as they are asked for, found with some images (equisep.measures.choose_layers).
ChooseLayers = Callable[[nn.Module, Any, Tensor], tuple[str, ...]]
# Images of the pass that finds the layers: as many as batch normalisation needs.
TRIED = 2


class CustomOutline(Network):
    """A module of the user's with the names of its measured layers; these are names in the module itself.

    batched: whether several such networks can be trained in one program and gain from it.
    """

    def __init__(self, module: nn.Module, layers: tuple[str, ...], *, batched: bool) -> None:
        super().__init__()
        self.module, self.layers, self.batched = module, layers, batched

    def forward(self, inputs: Tensor) -> Any:
        """Return the module's output."""
        return self.module(inputs)


def build_custom(architecture: Custom, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the user's module; raises ConfigError if its file is not that of the config or it makes no module."""
    path = architecture.target
    found = digest_of(find_target("architecture.target", path))
    if found != architecture.digest:
        problem = f"its file has changed since the run was trained (SHA-256 {architecture.digest}, now {found})"
        raise ConfigError(f"architecture.target={path}: {problem}; restore it to measure this run")
    offered = {"input_shape": input_shape, "classes": classes}
    module = call_target("architecture.target", path, architecture.arguments, **offered)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"architecture.target={path}: makes a {type(module).__name__}, not a torch.nn.Module")
    if next(module.parameters(), None) is None:
        raise ConfigError(f"architecture.target={path}: the module has no parameters to train")
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters()):
        # Lazy modules take their shapes, and their initial values, from the first pass.
        with _tried(path, (TRIED, *input_shape)), torch.no_grad():
            module.eval()(torch.zeros(TRIED, *input_shape))
        module.train()
    return module


@contextmanager
def other_generators(seed: int) -> Iterator[None]:
    """Seed the generators of Python and NumPy, which the user's code may draw from; restore them on exit."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _tried(path: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Raise ConfigError, in one line, for what a module at a path raises on images of a shape."""
    try:
        yield
    except (Exception, SystemExit) as error:
        problem = f"fails on images of shape {shape}: {describe_error(error, path)}"
        raise ConfigError(f"architecture.target={path}: {problem}") from error


@contextmanager
def errors_of_custom_code(architecture: Architecture, log: Path) -> Iterator[None]:
    """Raise ConfigError, in one line, for an error in training that comes from the file of the user's module.

    log: of the run, which has the traceback.
    """
    try:
        yield
    except (EquisepError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(architecture, Custom) and place_of(error, architecture.target):
            problem = f"fails in training: {describe_error(error, architecture.target)}; the traceback is in {log}"
            raise ConfigError(f"architecture.target={architecture.target}: {problem}") from error
        raise


def outline_custom(
    architecture: Custom, input_shape: tuple[int, ...], classes: int, choose: ChooseLayers
) -> CustomOutline:
    """Return the user's module with its measured layers, found in a pass of two images; it is tried in training too.

    choose: see :data:`ChooseLayers`. Raises ConfigError as :func:`build_custom`, if a pass fails, if the output is no
    (n, classes) logits or has no gradients, and for layers that the network does not have.
    """
    module = build_custom(architecture, input_shape, classes)
    device = next(module.parameters()).device
    images = torch.zeros(TRIED, *input_shape, device=device)
    path = architecture.target
    with _tried(path, (TRIED, *input_shape)), torch.no_grad():
        output = copy.deepcopy(module).eval()(images)
    if not isinstance(output, Tensor):
        problem = f"its output is a {type(output).__name__}, not a tensor of logits"
        raise ConfigError(f"architecture.target={path}: {problem}")
    if output.shape != (TRIED, classes):
        shape = tuple(output.shape)
        problem = f"must give logits of shape {(TRIED, classes)} for {TRIED} images of {classes} classes, not {shape}"
        raise ConfigError(f"architecture.target={path}: {problem}")
    seeded = other_generators(0)
    with _tried(path, (TRIED, *input_shape)), torch.enable_grad(), torch.random.fork_rng(devices=[]), seeded:
        trained = copy.deepcopy(module).train()(images)
    if not isinstance(trained, Tensor) or not trained.is_floating_point() or not trained.requires_grad:
        found = f"of {trained.dtype}" if isinstance(trained, Tensor) else f"a {type(trained).__name__}"
        found = f"{found} without gradients" if isinstance(trained, Tensor) and not trained.requires_grad else found
        raise ConfigError(f"architecture.target={path}: its output in training is {found}, and cannot be trained")
    try:
        layers = choose(module, architecture.layers, images)
    except ValueError as error:
        raise ConfigError(f"architecture.target={path}: {error}") from None
    return CustomOutline(module, layers, batched=_can_be_batched(module, images))


def _can_be_batched(module: nn.Module, images: Tensor) -> bool:
    """Whether two copies of a module give in one program what they give alone, without random numbers.

    Networks with convolutions gain nothing from it.
    """
    if any(isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) for part in module.modules()):
        return False
    copies = [copy.deepcopy(module).train() for _ in range(2)]
    varied = images + torch.linspace(-1, 1, images.numel(), device=images.device).reshape(images.shape)
    try:
        weights, buffers = stack_module_state(copies)

        def run(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return cast(Tensor, functional_call(copies[0], (weights, buffers), (varied,)))

        with torch.no_grad():
            together = torch.vmap(run, randomness="error")(weights, buffers)
            alone = copies[1](varied)
        return bool(torch.allclose(together[0], alone, rtol=1e-3, atol=1e-4))
    except Exception:
        # Whatever torch.func cannot do: the network is trained by itself.
        return False
