"""Adversarial images by foolbox: the fast gradient sign method (FGSM) or projected gradient descent (PGD)."""

import torch
from torch import Tensor, nn

from equisep.robustness.images import IMAGES_AT_ONCE, Images


def attack(network: nn.Module, images: Images, indices: Tensor, radius: float, steps: int | None, seed: int) -> Tensor:
    """Return adversarial intensities (m, c, h, w) within a radius of the original ones in the maximum norm.

    network: in evaluation mode. indices: (m,) of images, repeated for several draws. steps: of PGD, from a random start
    with a seed; None for FGSM. The global random state is restored.
    """
    import foolbox

    if steps is None:
        method = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        # Total step length of 2.5 radii, so that every point of the ball can be reached (Madry et al., 2018).
        method = foolbox.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=2.5 / steps, steps=steps)
    device = images.split.inputs.device
    normalisation = {"mean": images.mean, "std": images.std, "axis": -3}
    model = foolbox.PyTorchModel(network, bounds=(0, 1), preprocessing=normalisation, device=device)
    intensities, labels = images.intensities(), images.split.labels
    adversarial = [intensities[:0]]
    # foolbox draws its random starts from the global stream.
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        # Without indices there is one chunk, which is empty.
        for chunk in filter(len, torch.split(indices, IMAGES_AT_ONCE)):
            criterion = foolbox.criteria.Misclassification(labels[chunk])
            adversarial.append(method.run(model, intensities[chunk], criterion, epsilon=radius))
    return torch.cat(adversarial)
