"""The families of networks, as plain nn.Modules that name their measured layers and blocks."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from equisep.networks.convolutional import build_alexnet, build_vgg
from equisep.networks.densenet import DenseNetwork
from equisep.networks.fnn import FeedForwardNetwork
from equisep.networks.network import Network
from equisep.networks.resnet import ResidualNetwork
from equisep.schema import AlexNet, Architecture, ConfigError, DenseNet, FeedForward, ResNet, Vgg

__all__ = ["Network", "build_network", "forward_operations", "outline_network", "training_values"]


def build_network(architecture: Architecture, input_shape: tuple[int, ...], classes: int, seed: int) -> Network:
    """Return a freshly initialised network for inputs of shape (channels, height, width).

    The initialisation is PyTorch's, from ``torch.manual_seed(seed)``; the global random state is left
    as found. Raises ConfigError for a family that does not exist or images that do not fit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(architecture, input_shape, classes)


def outline_network(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> Network:
    """Return the network without its values, on torch's meta device: shapes and names, at no cost; raises alike."""
    with torch.device("meta"):
        return _build(architecture, input_shape, classes)


def _build(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> Network:
    match architecture:
        case FeedForward():
            return FeedForwardNetwork(
                torch.Size(input_shape).numel(),
                classes,
                architecture.hidden_widths(),
                batch_norm=architecture.batch_norm,
                relu=architecture.activation == "relu",
            )
        case Vgg():
            return build_vgg(architecture, input_shape, classes)
        case AlexNet():
            return build_alexnet(architecture, input_shape, classes)
        case ResNet():
            return ResidualNetwork(
                input_shape, classes, architecture.blocks, architecture.kernels, architecture.input_repeats
            )
        case DenseNet():
            growth = max(1, round(architecture.growth * architecture.width_multiplier))
            return DenseNetwork(input_shape, classes, architecture.blocks, growth, architecture.kernel)
    raise ConfigError(f"architecture.family={architecture.family}: no such family of networks")


def forward_operations(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> int:
    """Return the floating-point operations of matrix products and convolutions that one image takes forward."""
    network = outline_network(architecture, input_shape, classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    return int(counter.get_total_flops())


def training_values(outline: Network, input_shape: tuple[int, ...], images: int) -> int:
    """Return about how many numbers a network keeps while it trains on a batch of so many images.

    outline: from :func:`outline_network`. Five a parameter (itself, its gradient, two of the optimizer, one in work),
    and three for each value that a module puts out (itself, what its derivative needs, its gradient).
    """
    outputs: list[int] = []

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        outputs.append(output.numel())

    leaves = [module for module in outline.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    training = outline.training
    with torch.no_grad():
        outline.eval()(torch.empty(1, *input_shape, device="meta"))
    outline.train(training)
    for handle in handles:
        handle.remove()
    return 5 * sum(parameter.numel() for parameter in outline.parameters()) + 3 * images * sum(outputs)
