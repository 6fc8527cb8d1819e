"""Random draws: samples of dropout and noise, several per image, and turns of the latent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

ZERO_ENTROPY_SD = math.exp(-0.5 * math.log(2 * math.pi * math.e))
"""Sd of the Gaussian whose differential entropy is zero (Kirsch et al. 2020, Section 6.1)."""


def repeated(value: Float[Tensor, "batch ..."], rows: int) -> Float[Tensor, "rows ..."]:
    """Return whole copies of a batch, one after the other, until there are ``rows`` rows.

    Parameters
    ----------
    value
        Batch to repeat.
    rows
        Number of rows of the result, a multiple of the batch's.

    Raises
    ------
    ValueError
        If ``rows`` is not a multiple of the batch size.
    """
    batch = value.shape[0]
    if rows % batch:
        raise ValueError(f"{rows} rows of masks or noise for a batch of {batch}; expected a multiple of it")
    return value if rows == batch else value.repeat(rows // batch, *[1] * (value.dim() - 1))


def dropout_masks(
    rows: int, sites: Sequence[tuple[float, int]], generator: torch.Generator
) -> Float[Tensor, "rows nodes"]:
    """Draw dropout masks for several sites side by side, divided by the probability of keeping.

    Parameters
    ----------
    rows
        Number of rows of the masks.
    sites
        Probability of zeroing and number of nodes of each site.
    generator
        Source of randomness; the masks are made on its device.
    """
    device = generator.device
    zeroing = torch.cat([torch.full((nodes,), share, device=device) for share, nodes in sites])
    drawn = torch.rand((rows, len(zeroing)), generator=generator, device=device)
    return (drawn >= zeroing).float() / (1 - zeroing)


def random_turn(width: int, generator: torch.Generator) -> Float64[Tensor, "width width"]:
    """Draw an orthogonal matrix from the uniform (Haar) distribution, in float64.

    Parameters
    ----------
    width
        Number of rows and columns of the matrix.
    generator
        Source of randomness; the matrix is made on its device.

    References
    ----------
    Mezzadri 2007, How to generate random matrices from the classical compact groups.
    """
    shape, device = (width, width), generator.device
    factor = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64, device=device))
    return factor.Q * factor.R.diagonal().sign()
