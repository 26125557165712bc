"""Cost of a network: operations, memory, and whether several networks train faster together."""

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from equisep.networks.custom import CustomOutline
from equisep.networks.network import Network


def forward_operations(outline: Network, input_shape: tuple[int, ...]) -> int:
    """Return the floating-point operations of a forward pass of one image: matrix products and convolutions.

    outline: from :func:`outline_network`; left in evaluation mode.
    """
    if gains_from_batching(outline):
        # Every linear module maps an image once. A run on the meta device takes two seconds longer: torch imports its
        # compiler for it.
        return sum(
            2 * part.in_features * part.out_features for part in outline.modules() if isinstance(part, nn.Linear)
        )
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outline.eval()(_images(outline, input_shape))
    return int(counter.get_total_flops())


def training_values(outline: Network, input_shape: tuple[int, ...], images: int) -> int:
    """Return an estimate of the number of values in memory while a network trains on a batch of ``images`` images.

    outline: from :func:`outline_network`; left in evaluation mode. Counts five values per parameter (itself, its
    gradient, two of the optimizer, one temporary) and three per output of a module (itself, its gradient, one saved).
    """
    outputs: list[int] = []
    leaves = [module for module in outline.modules() if not list(module.children())]

    def count(module: nn.Module, arguments: object, output: object) -> None:
        outputs.extend(part.numel() for part in tree_leaves(output) if isinstance(part, torch.Tensor))

    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        outline.eval()(_images(outline, input_shape))
    for handle in handles:
        handle.remove()
    return 5 * sum(parameter.numel() for parameter in outline.parameters()) + 3 * images * sum(outputs)


def _images(outline: Network, input_shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(1, *input_shape, device=next(outline.parameters()).device)


def is_ours(network: nn.Module) -> bool:
    """Whether a network, or an outline, is of one of the package's families."""
    return isinstance(network, Network) and not isinstance(network, CustomOutline)


def gains_from_batching(network: nn.Module) -> bool:
    """Whether several such networks train faster in one program than one by one: those without convolutions do.

    Of the user's own, those that can be batched at all.
    """
    if isinstance(network, CustomOutline):
        return network.batched
    return is_ours(network) and not any(isinstance(module, nn.Conv2d) for module in network.modules())
