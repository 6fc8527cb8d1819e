"""Agreement of given logits with the last layer that is given beside them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lpc.arrays import rows_at_once

HALF = 2.0**-7
"""Largest difference that counts as rounding, over the sum of a logit's absolute terms. Latents, weights and
logits that were bfloat16 differ by at most three roundings of 2**-9, float16 ones by less."""
TINY = 2.0**-24
"""Spacing of float16 near zero, below which its rounding is no longer relative."""


def disagreement(
    latent: Float[Tensor, "points width"],
    logits: Float[Tensor, "points classes"],
    weight: Float[Tensor, "classes width"],
    bias: Float[Tensor, " classes"] | None,
) -> str:
    """Return a sentence on logits that a last layer does not make from the latents; empty: it does.

    Differences up to the rounding of half precision are no disagreement, whatever the dtype is now.

    Parameters
    ----------
    latent
        Latents of the points.
    logits
        Logits given for these points.
    weight, bias
        Last layer; no bias means zero.
    """
    weight = weight.double()
    shift = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
    least = TINY * (weight.abs().sum(dim=1) + 1)
    worst, where, points = 0.0, (0, 0, 0.0, 0.0), 0
    size = rows_at_once(max(latent.shape[1], len(weight)), latent.device)
    for first in range(0, len(latent), size):
        block, given = latent[first : first + size].double(), logits[first : first + size].double()
        made = block @ weight.T + shift
        terms = block.abs() @ weight.abs().T + shift.abs()
        off = (given - made).abs()
        apart = off > HALF * terms + least + TINY * block.abs().sum(dim=1, keepdim=True)
        points += int(apart.any(dim=1).sum())
        off = off * apart
        if float(off.max()) > worst:
            worst = float(off.max())
            row, column = divmod(int(off.argmax()), len(weight))
            where = first + row, column, float(given[row, column]), float(made[row, column])
    if not points:
        return ""
    row, column, has, makes = where
    return (
        f"the logits are not the classifier's for {points:,} of {len(latent):,} points: at point {row}, "
        f"class {column}, the logit is {has:.4g} and the classifier gives {makes:.4g}, the largest "
        f"difference ({worst:.4g}); pass latents, logits and classifier of one network, with the points in "
        "one order, or leave out logits or classifier"
    )
