"""What a network costs: operations, memory, and whether several train faster together."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from equisep.networks.network import Network


def forward_operations(outline: Network, input_shape: tuple[int, ...]) -> int:
    """Return the floating-point operations of matrix products and convolutions that one image takes forward.

    outline: from :func:`outline_network`; left in evaluation mode.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outline.eval()(torch.empty(1, *input_shape, device="meta"))
    return int(counter.get_total_flops())


def training_values(outline: Network, input_shape: tuple[int, ...], images: int) -> int:
    """Return about how many numbers a network keeps while it trains on a batch of so many images.

    outline: from :func:`outline_network`; left in evaluation mode. Five per parameter (itself, its gradient, two of the optimizer, one in work),
    and three for each value that a module puts out (itself, what its derivative needs, its gradient).
    """
    outputs: list[int] = []

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        outputs.append(output.numel())

    leaves = [module for module in outline.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    with torch.no_grad():
        outline.eval()(torch.empty(1, *input_shape, device="meta"))
    for handle in handles:
        handle.remove()
    return 5 * sum(parameter.numel() for parameter in outline.parameters()) + 3 * images * sum(outputs)


def gains_from_batching(network: nn.Module) -> bool:
    """Whether several networks train faster as one program than one after another: those without convolutions do."""
    return not any(isinstance(module, nn.Conv2d) for module in network.modules())
