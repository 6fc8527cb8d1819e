"""One forward pass over a set of images -> Latents(latent, logits, label)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.computing.numerics import measurement
from lpc.computing.threads import by_work
from lpc.data import ImageSet
from lpc.heads import Classifier
from lpc.inputs.networks import described, evaluating


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
    """Run a classifier in evaluation mode over every image; every module has its own mode again afterwards.

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
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    places = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    network = by_work(model)
    with evaluating(model):
        outputs = [
            network(images.normalised(some) if shown is None else shown[some].clone()) for some in places
        ]
    for output in outputs[:1]:
        if not all(isinstance(getattr(output, name, None), Tensor) for name in ("latent", "logits")):
            raise ValueError(
                f"the model returned {described(output)}; expected latent and logits, as a classifier of "
                "lpc.bottleneck_classifier returns them"
            )
    return Latents(
        torch.cat([output.latent for output in outputs]),
        torch.cat([output.logits for output in outputs]),
        images.label,
    )
