"""Functions of images: a network's logits, and an image's norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Callable[[Tensor], Tensor]
"""A network as a function from images to logits."""


def norms(images: Float[Tensor, "images ..."]) -> Float[Tensor, " images"]:
    """Return the Euclidean norm of every image, or of every difference of images."""
    return torch.linalg.vector_norm(images.flatten(start_dim=1), dim=1)
