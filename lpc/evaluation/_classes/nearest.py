"""Nearest row to each point, in blocks of points."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lpc.arrays import rows_at_once
from lpc.computing.threads import threads_for


def nearest_row(
    points: Float64[Tensor, "points width"], mean: Float64[Tensor, "classes width"]
) -> Int64[Tensor, " points"]:
    """Return the index of the row of ``mean`` nearest to each point, by direct differences; ties: the first.

    Parameters
    ----------
    points
        Latents, shape (points, width).
    mean
        Class means, shape (classes, width).
    """
    blocks = points.split(rows_at_once(len(mean), points.device))
    mode = "donot_use_mm_for_euclid_dist"
    with threads_for(points.numel() * len(mean)):
        return torch.cat([torch.cdist(block, mean, compute_mode=mode).argmin(dim=1) for block in blocks])
