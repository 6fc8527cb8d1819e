"""DeepFool's perturbations of a study's test images, and how short they could be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.ablation import Study
from lpc.data import ImageSet
from lpc.evaluation.robustness import deepfool
from lpc.runs import ATTACKED_IMAGES, load_model

Logits = Callable[[Tensor], Tensor]


class Attacked(NamedTuple):
    """A network under attack.

    Attributes
    ----------
    logits
        The network, images -> logits, in float64.
    image
        (images, channel, row, column), normalised.
    perturbation
        DeepFool's, of the same shape.
    """

    logits: Logits
    image: Tensor
    perturbation: Tensor

    @property
    def length(self) -> Float64[Tensor, " images"]:
        """Norm of each perturbation over the norm of its image."""
        return _norm(self.perturbation) / _norm(self.image)


def sample(images: ImageSet) -> Float64[Tensor, "images channel row column"]:
    """Return the normalised test images that every run of the book is attacked on, in float64."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:ATTACKED_IMAGES]
    return images.normalised(chosen).double()


def attacked(study: Study, architecture: str, seed: int) -> Attacked:
    """Attack a selected run again, as its test metrics were made (``lpc.runs.attack``)."""
    model = load_model(study.spec(architecture, seed), study.store, study.images.test).double()

    def logits(batch: Tensor) -> Tensor:
        return model(batch).logits

    image = sample(study.images.test)
    return Attacked(logits, image, deepfool(logits, image).perturbation)


def nearest_stranger(
    image: Float[Tensor, "images channel row column"], label: Tensor, train: ImageSet
) -> Float[Tensor, "images channel row column"]:
    """Return, for every image, the step to the nearest training image of another class."""
    others = train.normalised().to(image)
    distance = torch.cdist(image.flatten(1), others.flatten(1))
    distance = distance.masked_fill(train.label == label[:, None], torch.inf)
    return others[distance.argmin(dim=1)] - image


def shortest(
    network: Attacked, directions: Iterable[Tensor], *, steps: int = 100
) -> Float64[Tensor, " images"]:
    """Return each image's shortest found perturbation that changes the decision, over the image's norm.

    An upper bound of the least perturbation that is at most DeepFool's: along every direction the decision
    is looked up at ``steps`` equal fractions of DeepFool's own length.

    Parameters
    ----------
    network
        With DeepFool's perturbation, where it fooled.
    directions
        Perturbations to look along, of any length; an image whose direction is zero is left as it is.
    steps
        Fractions to look at.
    """
    limit = _norm(network.perturbation)
    best = limit.clone()
    fraction = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    with torch.no_grad():
        decision = network.logits(network.image).argmax(dim=1)
        for direction in directions:
            size = _norm(direction)
            unit = direction / torch.where(size > 0, size, 1.0)[:, None, None, None]
            scale = limit[:, None] * fraction
            moved = network.image[:, None] + scale[..., None, None, None] * unit[:, None]
            after = network.logits(moved.flatten(0, 1)).argmax(dim=1).reshape(scale.shape)
            found = torch.where(after != decision[:, None], scale, torch.inf).amin(dim=1)
            best = torch.minimum(best, found)
    return best / _norm(network.image)


def margin_along(network: Attacked, fraction: Float64[Tensor, " steps"]) -> Float64[Tensor, "images steps"]:
    """Return the logit margin of the initial decision along DeepFool's perturbation, over its initial value.

    The margin is the decision's logit minus the largest other: 1 at fraction 0, negative once fooled.
    """
    with torch.no_grad():
        decision = network.logits(network.image).argmax(dim=1)
        margins = [
            margin(network.logits(network.image + f * network.perturbation), decision) for f in fraction
        ]
        return torch.stack(margins, dim=1) / margin(network.logits(network.image), decision)[:, None]


def margin(logits: Float[Tensor, "images classes"], decision: Tensor) -> Float[Tensor, " images"]:
    """Return the decision's logit minus the largest other logit."""
    own = logits.gather(1, decision[:, None])[:, 0]
    return own - logits.scatter(1, decision[:, None], -torch.inf).amax(dim=1)


def margin_gradient(
    logits: Logits, image: Float[Tensor, "images channel row column"]
) -> tuple[Float[Tensor, " images"], Float[Tensor, " images"]]:
    """Return the logit margin at every image and the norm of its gradient with respect to the input."""
    leaf = image.clone().requires_grad_()
    value = logits(leaf)
    gap = margin(value, value.argmax(dim=1))
    (gradient,) = torch.autograd.grad(gap.sum(), leaf)
    return gap.detach(), _norm(gradient)


def _norm(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value.flatten(start_dim=1), dim=1)
