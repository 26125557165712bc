"""Images as normalised inputs of a network and as intensities, which perturbations change."""

from dataclasses import dataclass

from torch import Tensor

from equisep.data import Split

# Images per call of a network or an attack.
IMAGES_AT_ONCE = 2000


@dataclass(frozen=True)
class Images:
    """Normalised images and their normalisation.

    split: normalised inputs (n, c, h, w) with labels. mean, std: (c,), of intensities in 0 … 1.
    """

    split: Split
    mean: Tensor
    std: Tensor

    def intensities(self) -> Tensor:
        """Return the images as intensities (n, c, h, w), 0 … 1."""
        return (self.split.inputs * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)

    def normalised(self, intensities: Tensor) -> Tensor:
        """Return intensities (…, c, h, w) as normalised inputs."""
        return (intensities - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
