"""One forward pass over a set of images -> Latents(latent, logits, label)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.data import ImageSet
from lpc.heads import Classifier
from lpc.numerics import measurement
from lpc.threads import by_work


class Latents(NamedTuple):
    """Penultimate representations, class scores and labels of a set, in its order.

    Attributes
    ----------
    latent
        Penultimate representations.
    logits
        Class scores.
    label
        Class of each point.
    """

    latent: Float[Tensor, "points width"]
    logits: Float[Tensor, "points classes"]
    label: Int[Tensor, " points"]

    @property
    def predicted(self) -> Int[Tensor, " points"]:
        """The class of the largest logit."""
        return self.logits.argmax(dim=1)


@measurement
@torch.no_grad()
def collect(
    model: Classifier,
    images: ImageSet,
    *,
    shown: Float[Tensor, "points channel row column"] | None = None,
    batch_size: int = 1024,
) -> Latents:
    """Run a classifier in evaluation mode over every image; its mode is restored after.

    Parameters
    ----------
    model
        On the device of the images.
    images
        Passed without augmentation, unless ``shown`` says otherwise.
    shown
        What the classifier sees in place of each image, such as its augmented version.
    batch_size
        Images a pass.
    """
    training = model.training
    model.eval()
    network = by_work(model)
    try:
        outputs = [
            network(images.normalised(some) if shown is None else shown[some])
            for some in (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
        ]
    finally:
        model.train(training)
    return Latents(
        torch.cat([output.latent for output in outputs]),
        torch.cat([output.logits for output in outputs]),
        images.label,
    )
