"""Which native engine trains a network: one for feed-forward networks, one for those with convolutions."""

from collections.abc import Sequence

from torch import nn

from equisep.config import Training
from equisep.networks import FeedForwardNetwork, is_ours
from equisep.training.convolutions import NativeConvolutionalTraining
from equisep.training.kernels import Kernels
from equisep.training.native import NativeTraining
from equisep.training.schedule import Member, Trainer


def kernels_of(network: nn.Module) -> Kernels | None:
    """Return the kernels with which a network, or an outline, can be trained on a CPU.

    None for a module of another kind than the package's families.
    """
    if isinstance(network, FeedForwardNetwork):
        return Kernels.FEED_FORWARD
    return Kernels.CONVOLUTIONS if is_ours(network) else None


def native_trainer(members: Sequence[Member], training: Training) -> Trainer:
    """Return the native training of one network that has kernels; raises NoNativeKernels."""
    if kernels_of(members[0].network) is Kernels.FEED_FORWARD:
        return NativeTraining(members, training)
    assert kernels_of(members[0].network) is Kernels.CONVOLUTIONS
    return NativeConvolutionalTraining(members, training)
