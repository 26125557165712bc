"""Corruptions of images: five of the fifteen of Hendrycks & Dietterich (2019), those that ten pixels can show."""

import torch
from torch import Tensor


def corrupt(intensities: Tensor, strength: float, draw: int, seed: int) -> Tensor:
    """Return images under the corruption whose turn it is, at a severity 0 … 1.

    Five of the fifteen of Hendrycks & Dietterich (2019), those that images of ten pixels can show: shot and impulse
    noise, Gaussian blur, less contrast, more brightness.
    """
    return _CORRUPTIONS[draw % len(_CORRUPTIONS)](intensities, strength, torch.Generator().manual_seed(seed))


def _shot_noise(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # From 60 photons a pixel, as in the mildest case of theirs, to 3, as in the worst.
    photons = 60 * (3 / 60) ** severity
    counted: Tensor = torch.poisson(intensities.cpu() * photons, generator=generator).to(intensities) / photons
    return counted.clamp(0, 1)


def _impulse_noise(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Salt and pepper in up to 27 % of the pixels, as in their worst case.
    chance = torch.rand(intensities.shape, generator=generator).to(intensities)
    share = 0.27 * severity
    peppered = torch.where(chance < share / 2, 0.0, intensities)
    return torch.where(chance > 1 - share / 2, 1.0, peppered)


def _blur(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Up to a standard deviation of a tenth of the image's height.
    deviation = 0.1 * severity * intensities.shape[-1]
    # A run starts a second sooner without torchvision.
    from torchvision.transforms.v2 import functional as images_as

    blurred: Tensor = images_as.gaussian_blur(intensities, kernel_size=[5, 5], sigma=[deviation, deviation])
    return blurred


def _less_contrast(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Down to a twentieth, as in their worst case; about each image's own mean.
    mean = intensities.mean(dim=(-3, -2, -1), keepdim=True)
    return mean + (1 - 0.95 * severity) * (intensities - mean)


def _brighten(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # By up to half of the range, as in their worst case.
    return (intensities + 0.5 * severity).clamp(0, 1)


_CORRUPTIONS = (_shot_noise, _impulse_noise, _blur, _less_contrast, _brighten)
