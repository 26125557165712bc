"""Corruptions of images: those five of the fifteen of Hendrycks & Dietterich (2019) that suit 10×10 pixels."""

import torch
from torch import Tensor


def corrupt(intensities: Tensor, strength: float, draw: int, seed: int) -> Tensor:
    """Return corrupted intensities (n, c, h, w), for a strength (severity) of 0 … 1.

    Draws cycle through shot noise, impulse noise, Gaussian blur, reduced contrast and increased brightness.
    """
    return _CORRUPTIONS[draw % len(_CORRUPTIONS)](intensities, strength, torch.Generator().manual_seed(seed))


def _shot_noise(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # From 60 photons per pixel, as in the mildest severity of the source, to 3, as in the most severe.
    photons = 60 * (3 / 60) ** severity
    noisy: Tensor = torch.poisson(intensities.cpu() * photons, generator=generator).to(intensities) / photons
    return noisy.clamp(0, 1)


def _impulse_noise(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Salt and pepper in up to 27 % of the pixels, as in the most severe case of the source.
    chance = torch.rand(intensities.shape, generator=generator).to(intensities)
    share = 0.27 * severity
    peppered = torch.where(chance < share / 2, 0.0, intensities)
    return torch.where(chance > 1 - share / 2, 1.0, peppered)


def _blur(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Up to a standard deviation of a tenth of the image's height.
    deviation = 0.1 * severity * intensities.shape[-1]
    # Imported here: torchvision takes a second to load.
    from torchvision.transforms.v2 import functional

    blurred: Tensor = functional.gaussian_blur(intensities, kernel_size=[5, 5], sigma=[deviation, deviation])
    return blurred


def _less_contrast(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # Down to 5 %, as in the most severe case of the source, around the mean of each image.
    mean = intensities.mean(dim=(-3, -2, -1), keepdim=True)
    return mean + (1 - 0.95 * severity) * (intensities - mean)


def _brighten(intensities: Tensor, severity: float, generator: torch.Generator) -> Tensor:
    # By up to half of the range, as in the most severe case of the source.
    return (intensities + 0.5 * severity).clamp(0, 1)


_CORRUPTIONS = (_shot_noise, _impulse_noise, _blur, _less_contrast, _brighten)
