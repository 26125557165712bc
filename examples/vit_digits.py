"""A vision transformer on 8×8 digits in a plain training loop, with D of its blocks during training.

    python -m examples.vit_digits        # a minute on two cores; writes vit_digits.csv
    equisep figure law source=vit_digits.csv

It needs scikit-learn for the digits: pip install 'equisep[metrics]'.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import equisep


class VisionTransformer(nn.Module):
    """Patches of 2×2 pixels as 16 tokens, a class token, encoder blocks, and a linear classifier of the class token."""

    def __init__(self, width: int = 32, blocks: int = 6, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, classes) logits for (n, 1, 8, 8) images."""
        tokens = self.patches(images).flatten(start_dim=2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.classifier(tokens[:, 0])
        return logits


def train(epochs: int = 30, to: str = "vit_digits.csv", blocks: int = 6, seed: int = 0) -> equisep.SeparationCallback:
    """Train and return the callback with its measurements."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images[:1000], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target[:1000])
    network = VisionTransformer(blocks=blocks)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    # The class token is the first one: it is what the classifier reads.
    callback = equisep.SeparationCallback(
        network, (images, labels), run=f"vit seed {seed}", to=to, pooling={"blocks.*": "first"}
    )
    callback(0)
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in torch.randperm(len(labels)).split(128):
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        measured = callback(epoch, loss=sum(losses) / len(losses))
        if measured is not None:
            law = measured.law
            print(f"epoch {epoch}: r = {law.pearson_r:.4f}, ρ = {law.decay_ratio:.4f}, loss {losses[-1]:.4f}")
    print(f"measuring took {callback.share:.1%} of the training time")
    return callback


if __name__ == "__main__":
    train(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
