"""How close the directions of K class means can come to an equiangular tight frame in P dimensions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def least_equiangularity(*, classes: int, width: int) -> float:
    r"""Return the smallest possible sd of the cosines between centred class means of equal norm.

    Notes
    -----
    The matrix C of cosines has trace K and rank at most :math:`r = \min(P, K - 1)`, so
    :math:`\lVert C\rVert_F^2 \ge K^2 / r`. For means of equal norm that add to zero, the cosines' mean over
    pairs is :math:`-1/(K-1)`. Hence :math:`\mathrm{sd}^2 \ge \frac{K/r - 1}{K - 1} - \frac1{(K-1)^2}`, which
    is 0 for :math:`P \ge K - 1`.
    """
    if classes < 2 or width < 1:
        raise ValueError(f"classes={classes}, width={width}; expected 2 or more classes and 1 or more nodes")
    if width >= classes - 1:
        return 0.0
    return math.sqrt((classes / width - 1) / (classes - 1) - 1 / (classes - 1) ** 2)


def closest_frame(
    *, classes: int, width: int, starts: int = 16, steps: int = 1500, seed: int = 0
) -> Float64[Tensor, "classes width"]:
    r"""Search for the class means of equal norm with the smallest mean :math:`|\cos + 1/(K-1)|` over pairs.

    Parameters
    ----------
    classes, width
        Numbers of classes K and of nodes P.
    starts
        Number of random starts; the best is returned.
    steps
        Number of steps of Adam, at a rate that falls to zero.
    seed
        Seed of the starts.

    Notes
    -----
    The means are centred, as the measure centres them. The minimised function also has ten times the
    coefficient of variation of their norms, which ends below 1e-3. The problem is not convex, so the value
    found is an upper bound on the minimum.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(starts, classes, width, generator=generator, dtype=torch.float64)
    points.requires_grad_(True)
    first, second = torch.triu_indices(classes, classes, offset=1)

    def deviation() -> tuple[Tensor, Tensor]:
        centred = points - points.mean(dim=1, keepdim=True)
        norm = centred.norm(dim=2, keepdim=True)
        direction = centred / norm
        cosine = (direction[:, first] * direction[:, second]).sum(dim=2)
        unequal = norm.std(dim=1, correction=0) / norm.mean(dim=1)
        return (cosine + 1 / (classes - 1)).abs().mean(dim=1) + 10 * unequal[:, 0], centred.detach()

    optimizer = torch.optim.Adam([points], lr=0.1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps) ** 2
        optimizer.zero_grad()
        deviation()[0].sum().backward()
        optimizer.step()
    value, centred = deviation()
    return centred[value.argmin()]
