"""Construction of a network from the config of its architecture."""

import torch
from torch import nn

from equisep.config import AlexNet, Architecture, ConfigError, Convolutional, Custom, DenseNet, FeedForward, ResNet, Vgg
from equisep.networks.convolutional import build_alexnet, build_vgg
from equisep.networks.custom import ChooseLayers, build_custom, other_generators, outline_custom
from equisep.networks.densenet import DenseNetwork
from equisep.networks.fnn import FeedForwardNetwork
from equisep.networks.network import Network
from equisep.networks.resnet import ResidualNetwork


def build_network(architecture: Architecture, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised network for inputs of shape (channels, height, width); of a custom one any module.

    The initialisation is PyTorch's after ``torch.manual_seed(seed)``; the global random state is restored.
    Raises ConfigError for an unknown family or images too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(architecture, Custom):
            with other_generators(seed):
                return build_custom(architecture, input_shape, classes)
        return _build(architecture, input_shape, classes)


def outline_network(
    architecture: Architecture, input_shape: tuple[int, ...], classes: int, choose: ChooseLayers | None = None
) -> Network:
    """Return the network on torch's meta device, with shapes and names but no values; raises as build_network.

    A custom network is on its own device with values, since not every module can be made on the meta device. choose:
    finds its layers, see :data:`ChooseLayers`.
    """
    if isinstance(architecture, Custom):
        assert choose is not None
        with torch.random.fork_rng(devices=[]), other_generators(0):
            return outline_custom(architecture, input_shape, classes, choose)
    with torch.device("meta"):
        return _build(architecture, input_shape, classes)


def _build(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> Network:
    try:
        match architecture:
            case FeedForward():
                return FeedForwardNetwork(
                    torch.Size(input_shape).numel(),
                    classes,
                    architecture.hidden_widths(),
                    batch_norm=architecture.batch_norm,
                    layer_norm=architecture.norm == "layer",
                    relu=architecture.activation == "relu",
                    kaiming=architecture.initialisation == "kaiming",
                )
            case Convolutional():
                shared = {"kernel": architecture.kernel, "input_repeats": architecture.input_repeats}
                scaled = (architecture.width_multiplier, architecture.classifier_width)
                if isinstance(architecture, Vgg):
                    return build_vgg(input_shape, classes, architecture.depth, *scaled, **shared)
                if isinstance(architecture, AlexNet):
                    return build_alexnet(input_shape, classes, *scaled, **shared)
            case ResNet():
                blocks = (architecture.blocks, architecture.kernels, architecture.input_repeats)
                return ResidualNetwork(input_shape, classes, *blocks)
            case DenseNet():
                growth = max(1, round(architecture.growth * architecture.width_multiplier))
                return DenseNetwork(input_shape, classes, architecture.blocks, growth, architecture.kernel)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    raise ConfigError(f"architecture.family={architecture.family}: networks/families.py has no case for it")
