"""The floor that the composition of batches puts under D, and its prediction from the batches' class lists.

In evaluation mode an image's features do not depend on other images. With batch statistics they do: batch normalisation
subtracts μ_B and divides by σ_B of the batch B, and these depend on how many images of each class B has. So the same
image is in different places in batches of unlike composition. Let m_kB be the mean feature of class k in batch B and
m_k its mean over batches. By the law of total covariance

    SS_w = Σ_k π_k Σ_B q_B|k Cov(x | k, B) + C,    C = Σ_k π_k Σ_B q_B|k (m_kB − m_k)(m_kB − m_k)ᵀ

with π_k the share of class k and q_B|k the share of its images that are in B. If the first term and SS_b are those of
evaluation mode, D = Tr(SS_w SS_b⁺) exceeds that of evaluation mode by Tr(C SS_b⁺): a floor, which does not fall with
the scatter that the network leaves within the classes. The floor is measured as D under batch statistics less D in
evaluation mode, of the same snapshot and layer; where running statistics lag behind, as in a network that has hardly
been trained, this difference is something else and may be negative.

The prediction is D with the statistics expected of the class list of each batch alone, less D in evaluation mode. At
every normalisation, for each channel,

    μ_B = Σ_k p_Bk m̃_kB,    σ²_B = Σ_k p_Bk (s̃²_kB + (m̃_kB − μ_B)²)

with p_Bk the share of class k in B, and m̃_kB, s̃²_kB mean and variance of the channel over all images of class k, which
have passed the earlier normalisations with the statistics expected of B. The variance of μ_B from the choice of images,
about s̃²/b, is neglected. It assumes that the images of a class in B are
representative of the class. It therefore has no floor from the random choice of images within a class, which is all
that is left in stratified batches, and no effect of an image on the statistics that normalise it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def expected_statistics(network: nn.Module, weights: Tensor) -> Iterator[None]:
    """Normalise by weighted averages over the images of a forward pass, while the context is open.

    network: in evaluation mode; its running statistics are overwritten. weights: (n,) of the n images of a pass, with
    sum 1; see :func:`class_list_weights`.
    """

    def set_statistics(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].flatten(start_dim=2) if arguments[0].ndim > 2 else arguments[0][:, :, None]
        of_image = weights.to(values)
        mean = torch.einsum("n,nc->c", of_image, values.mean(dim=2))
        variance = torch.einsum("n,nc->c", of_image, ((values - mean[:, None]) ** 2).mean(dim=2))
        cast(Tensor, module.running_mean).copy_(mean)
        cast(Tensor, module.running_var).copy_(variance)

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    handles = [module.register_forward_pre_hook(set_statistics) for module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def class_list_weights(classes: Tensor, batch: slice) -> Tensor:
    """Return (n,) weights by which averages over all images become those expected of a batch's class list.

    classes: (n,) class of each image, 0 … K−1. batch: of these. The weight of an image of class k is p_Bk / n_k.
    """
    sizes = torch.bincount(classes)
    in_batch = torch.bincount(classes[batch], minlength=len(sizes))
    return (in_batch.double() / (sizes * in_batch.sum()))[classes]
