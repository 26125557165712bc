"""A network of one's own for a sweep: a perceptron with layer normalisation before each activation."""

import itertools

import torch
from torch import Tensor, nn


class LayerNormNet(nn.Module):
    """Hidden layers Linear → LayerNorm → activation, then a linear classifier.

    input_shape, classes: given by equisep. depth: linear layers, ≥ 2. activation: a class of torch.nn, by its name.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, depth: int = 6, width: int = 100, activation: str = "ReLU"
    ) -> None:
        super().__init__()
        sizes = [torch.Size(input_shape).numel(), *[width] * (depth - 1)]
        self.hidden = nn.Sequential()
        for before, after in itertools.pairwise(sizes):
            self.hidden.append(nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), getattr(nn, activation)()))
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, classes) logits for (n, channels, height, width) images."""
        logits: Tensor = self.classifier(self.hidden(images.flatten(start_dim=1)))
        return logits
