"""Which native engine trains a network: one for feed-forward networks, one for those with convolutions."""

from collections.abc import Sequence

from torch import nn

from equisep.config import Training
from equisep.networks import FeedForwardNetwork
from equisep.training.convolutions import NativeConvolutionalTraining, has_operations
from equisep.training.kernels import Kernels
from equisep.training.native import NativeTraining
from equisep.training.schedule import Member, Trainer


def kernels_of(network: nn.Module) -> Kernels | None:
    """Return the kernels with which a network, or an outline, can be trained on a CPU; None if there are none."""
    if isinstance(network, FeedForwardNetwork):
        return Kernels.FEED_FORWARD
    with_convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return Kernels.CONVOLUTIONS if with_convolutions and has_operations(network) else None


def native_trainer(members: Sequence[Member], training: Training) -> Trainer:
    """Return the native training of one network that has kernels; raises NoNativeKernels."""
    if kernels_of(members[0].network) is Kernels.FEED_FORWARD:
        return NativeTraining(members, training)
    return NativeConvolutionalTraining(members, training)
