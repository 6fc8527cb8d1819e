"""Exact nearest-neighbour distances in bounded memory, also for sets that have collapsed.

Distances are always square roots of sums of squared direct differences (or largest direct differences)
of the points as they came, up to a power of two. Expanded squares only choose candidates, with an error
bound that keeps every true neighbour among them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.spatial import cKDTree
from torch import Tensor

from lpc.arrays import EPSILON, binary_scale, centre

Norm = Literal["l2", "linf"]

_TREE_WIDTH = 10  # up to this width a k-d tree is faster than all pairs
_BLOCK_ENTRIES = 1 << 22  # float64 entries of one temporary: 32 MiB
_P = {"l2": 2.0, "linf": float("inf")}


def check_norm(norm: str) -> None:
    """Raise ValueError unless ``norm`` is ``"l2"`` or ``"linf"``."""
    if norm not in _P:
        raise ValueError(f"norm is {norm!r}; expected 'l2' or 'linf'")


def kth_distance(
    points: Float64[Tensor, "points width"], *, k: int, norm: Norm
) -> Float64[Tensor, " points"]:
    """Return the distance from each point to its k-th nearest other point.

    Parameters
    ----------
    points
        float64, on any device.
    k
        From 1 to the number of points less one.
    norm
        ``"l2"`` (Euclidean) or ``"linf"`` (Chebyshev).

    Raises
    ------
    ValueError
        k out of range, or an unknown norm.

    Notes
    -----
    Up to width 10 on the cpu with SciPy's k-d tree, otherwise over blocks of pairs. Points repeated more
    than k times get a distance of exactly zero.
    """
    check_norm(norm)
    total = points.shape[0]
    if not 1 <= k < total:
        raise ValueError(f"k is {k} for {total} points; expected 1 to {total - 1}")
    scale = binary_scale(points)
    scaled = points / scale
    if points.device.type == "cpu" and points.shape[1] <= _TREE_WIDTH:
        value = scaled.numpy()
        distance = cKDTree(value).query(value, k=[k + 1], p=_P[norm], workers=torch.get_num_threads())[0]
        return torch.from_numpy(np.asarray(distance)[:, 0]) * scale
    if norm == "l2":
        return _kth_by_candidates(scaled, k) * scale
    return _kth_of_all_pairs(scaled, k, norm) * scale


def _pairs(left: Tensor, right: Tensor, norm: Norm) -> Tensor:
    return torch.cdist(left, right, p=_P[norm], compute_mode="donot_use_mm_for_euclid_dist")


def _kth_of_all_pairs(points: Tensor, k: int, norm: Norm) -> Tensor:
    rows = max(1, _BLOCK_ENTRIES // points.shape[0])
    # The point itself is among the k + 1 nearest, at distance zero.
    parts = [_pairs(block, points, norm).kthvalue(k + 1, dim=1).values for block in points.split(rows)]
    return torch.cat(parts)


def _kth_by_candidates(points: Tensor, k: int) -> Tensor:
    r"""Return the k-th Euclidean distance: expanded squares choose candidates, direct differences decide.

    With c the centred points, rounding of :math:`\lVert c_i\rVert^2 + \lVert c_j\rVert^2 - 2 c_i c_j` is
    below :math:`b_i = 2 (P + 8) \epsilon (\lVert c_i\rVert + \max_j \lVert c_j\rVert)^2`, so that every
    true neighbour lies within :math:`2 b_i` of the k-th smallest expanded square.
    """
    total, width = points.shape
    centred = centre(points)
    square = centred.square().sum(dim=1)
    largest = square.max().sqrt()
    rows = max(1, _BLOCK_ENTRIES // total)
    result = []
    for start in range(0, total, rows):
        block = slice(start, start + rows)
        rough = square[block, None] + square - 2 * centred[block] @ centred.T
        bound = 2 * (width + 8) * EPSILON * (square[block].sqrt() + largest).square()
        limit = rough.kthvalue(k + 1, dim=1).values + 2 * bound
        most = int((rough <= limit[:, None]).sum(dim=1).max())
        if most > total // 4:
            result.append(_pairs(points[block], points, "l2").kthvalue(k + 1, dim=1).values)
            continue
        near = rough.topk(most, dim=1, largest=False, sorted=False).indices
        result.append(_kth_among(points[block], points, near, k))
    return torch.cat(result)


def _kth_among(
    block: Float64[Tensor, "rows width"],
    points: Float64[Tensor, "points width"],
    near: Int64[Tensor, "rows candidates"],
    k: int,
) -> Float64[Tensor, " rows"]:
    rows = max(1, _BLOCK_ENTRIES // (near.shape[1] * points.shape[1]))
    parts = []
    for some, index in zip(block.split(rows), near.split(rows), strict=True):
        distance = torch.linalg.vector_norm(points[index] - some[:, None], dim=2)
        parts.append(distance.kthvalue(k + 1, dim=1).values)
    return torch.cat(parts)


def count_within(
    points: Float64[Tensor, "points width"], radius: Float64[Tensor, " points"]
) -> Int64[Tensor, " points"]:
    """Return how many other points lie strictly nearer than ``radius`` in the Chebyshev norm.

    Parameters
    ----------
    points
        float64, on any device.
    radius
        One positive radius a point.
    """
    if points.device.type == "cpu" and points.shape[1] <= _TREE_WIDTH:
        value = points.numpy()
        below = np.nextafter(radius.numpy(), 0.0)
        count = cKDTree(value).query_ball_point(
            value, below, p=_P["linf"], return_length=True, workers=torch.get_num_threads()
        )
        return torch.from_numpy(np.asarray(count, dtype=np.int64)) - 1
    rows = max(1, _BLOCK_ENTRIES // points.shape[0])
    parts = [
        (_pairs(block, points, "linf") < reach[:, None]).sum(dim=1) - 1
        for block, reach in zip(points.split(rows), radius.split(rows), strict=True)
    ]
    return torch.cat(parts)
