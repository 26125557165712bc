"""Adversarial images, by foolbox: one step of the gradient's sign (FGSM), or projected gradient descent (PGD)."""

import torch
from torch import Tensor, nn

from equisep.robustness.images import IMAGES_AT_ONCE, Images


def attack(network: nn.Module, part: Images, chosen: Tensor, radius: float, steps: int | None, seed: int) -> Tensor:
    """Return adversarial intensities of the chosen images, in the ball of a radius (largest change of a pixel).

    network: in evaluation mode. chosen: (m,) numbers of images, repeated where an image has several draws. steps: of
    PGD, from a random start with a seed; None for FGSM. The global random state is left as found. Returns (m, c, h, w).
    """
    import foolbox

    method = (
        foolbox.attacks.LinfFastGradientAttack(random_start=False)
        if steps is None
        # Steps of 2.5 radii in all, so that every point of the ball can be reached (Madry et al., 2018).
        else foolbox.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=2.5 / steps, steps=steps)
    )
    device = part.split.inputs.device
    normalisation = {"mean": part.mean, "std": part.std, "axis": -3}
    model = foolbox.PyTorchModel(network, bounds=(0, 1), preprocessing=normalisation, device=device)
    intensities, labels = part.intensities(), part.split.labels
    found = [intensities[:0]]
    # foolbox draws its random starts from the global stream.
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        # Where no image is chosen there is one chunk, and it is empty.
        for chunk in filter(len, torch.split(chosen, IMAGES_AT_ONCE)):
            criterion = foolbox.criteria.Misclassification(labels[chunk])
            found.append(method.run(model, intensities[chunk], criterion, epsilon=radius))
    return torch.cat(found)
