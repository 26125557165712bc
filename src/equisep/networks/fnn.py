"""Feed-forward networks: H−1 blocks Linear → BatchNorm → ReLU, then a linear classifier.

At 100 inputs, width 100 and 10 classes a network of depth H has 10,300·(H−1) + 1,010 parameters
and H measured layers: the input and the output of each block; the logits are not a layer.
"""

from __future__ import annotations

from torch import Tensor, nn


class FeedForwardNetwork(nn.Module):
    """The paper's feed-forward network, initialised as PyTorch does.

    Inputs (n, …) are flattened to (n, inputs); the output is (n, classes) logits. ``layers`` names
    the modules whose outputs are the hidden layers 1 … depth−1, in order.
    """

    def __init__(self, inputs: int, classes: int, depth: int, width: int) -> None:
        """inputs, width, classes: units ≥ 1. depth: linear layers with the classifier, ≥ 2."""
        super().__init__()
        self.blocks = nn.Sequential()
        for hidden in range(depth - 1):
            self.blocks.append(
                nn.Sequential(
                    nn.Linear(inputs if hidden == 0 else width, width),
                    nn.BatchNorm1d(width),
                    nn.ReLU(),
                )
            )
        self.classifier = nn.Linear(width, classes)
        self.layers = tuple(f"blocks.{hidden}" for hidden in range(depth - 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, classes) logits for inputs (n, …)."""
        logits: Tensor = self.classifier(self.blocks(inputs.flatten(start_dim=1)))
        return logits
