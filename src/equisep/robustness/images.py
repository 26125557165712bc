"""Images as a network takes them, and as intensities, which is what perturbations change."""

from dataclasses import dataclass

from torch import Tensor

from equisep.data import Split

# Images that go through a network, or an attack, in one call.
IMAGES_AT_ONCE = 2000


@dataclass(frozen=True)
class Images:
    """Images as a network takes them, and what turns intensities of 0 … 1 into them.

    split: normalised inputs (n, c, h, w) with labels. mean, std: (c,) of the normalisation.
    """

    split: Split
    mean: Tensor
    std: Tensor

    def intensities(self) -> Tensor:
        """Return the images as intensities, 0 … 1."""
        return (self.split.inputs * self._shaped(self.std) + self._shaped(self.mean)).clamp(0, 1)

    def normalised(self, intensities: Tensor) -> Tensor:
        """Return intensities (…, c, h, w) as the network takes them."""
        return (intensities - self._shaped(self.mean)) / self._shaped(self.std)

    @staticmethod
    def _shaped(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)
