"""Points relative to a centre, rounded; the error that this adds to distances; and direct distances."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Norm = Literal["l2", "linf"]
P = {"l2": 2.0, "linf": float("inf")}
_ENTRIES = {"cpu": 1 << 20}  # of one temporary; other devices: 2**26, half a GiB of float64
_SMALL = 2.0**-30  # reach of a frame whose squares float32 still holds with all digits


def rows_at_once(points: Tensor, columns: int) -> int:
    """Return the number of rows, of so many columns, that a temporary on the points' device may have."""
    return max(1, _ENTRIES.get(points.device.type, 1 << 26) // columns)


def pairs(left: Tensor, right: Tensor, norm: Norm) -> Tensor:
    """Return the distance of each point to each other, from direct differences."""
    return torch.cdist(left, right, p=P[norm], compute_mode="donot_use_mm_for_euclid_dist")


class Frame(NamedTuple):
    """Points over a scale and relative to a centre, rounded to a dtype; and their squared norms.

    Attributes
    ----------
    centre, scale
        Centre and scale of all points.
    own_scale
        Power of two by which the relative points are divided further if they are so small that squares of
        float32 would lose digits.
    relative, square
        Points in this frame, and their squared Euclidean norms.
    """

    centre: Float64[Tensor, " width"]
    scale: float
    own_scale: float
    relative: Float[Tensor, "points width"]
    square: Float[Tensor, " points"]

    def of(self, points: Float64[Tensor, "points width"]) -> Float[Tensor, "points width"]:
        """Return other points in this frame."""
        return _relative(points, self.centre, self.scale, self.own_scale).to(self.relative.dtype)

    def margin(self, own: Float[Tensor, "rows width"], norm: Norm) -> Float[Tensor, "rows 1"]:
        r"""Return twice the rounding error of compared values: squares for ``l2``, distances for ``linf``.

        With c points in the frame and u the unit rounding of its dtype,
        :math:`\lVert c_j\rVert^2 - 2 c_i c_j` and :math:`\lVert c_i - c_j\rVert^2` are off by less than
        :math:`b_i = (P + 16) u (\lVert c_i\rVert + \max_j \lVert c_j\rVert)^2`, and
        :math:`\lVert c_i - c_j\rVert_\infty` by less than
        :math:`b_i = 4 u (\lVert c_i\rVert_\infty + \max_j \lVert c_j\rVert_\infty)`. So a pair is nearer
        than the k-th distance where it lies more than :math:`2 b_i` below the k-th smallest value, farther
        where it lies more than that above, and in doubt between.
        """
        unit = torch.finfo(own.dtype).eps / 2
        if norm == "linf":
            size = own.abs().amax(dim=1) + self.relative.abs().amax()
            return (8 * unit * size)[:, None]
        size = torch.linalg.vecdot(own, own).sqrt() + self.square.max().sqrt()
        return (2 * (own.shape[1] + 16) * unit * size.square())[:, None]

    def compared(self, distance: Float64[Tensor, " pairs"], norm: Norm) -> Float64[Tensor, " pairs"]:
        """Return distances over the scale as this frame has them: squared for ``l2``."""
        own = distance / self.own_scale
        return own.square() if norm == "l2" else own


def frame_of(
    points: Float64[Tensor, "points width"],
    index: Int64[Tensor, " some"],
    centre: Float64[Tensor, " width"],
    scale: float,
    reach: float,
    dtype: torch.dtype,
) -> Frame:
    """Return some points in a frame.

    Parameters
    ----------
    points
        All points.
    index
        Indices of the points to bring into the frame.
    centre, scale
        Centre and scale of the frame; the centre is already divided by the scale.
    reach
        Largest distance of the points from the centre, divided by the scale.
    dtype
        Dtype to which the points are rounded.
    """
    own_scale = math.ldexp(1.0, math.frexp(reach)[1]) if 0.0 < reach < _SMALL else 1.0
    relative = torch.empty((len(index), points.shape[1]), dtype=dtype, device=points.device)
    square, size = relative.new_empty(len(index)), rows_at_once(points, points.shape[1])
    for start in range(0, len(index), size):
        part = slice(start, start + size)
        some = points.index_select(0, index[part])
        relative[part] = _relative(some, centre, scale, own_scale).to(dtype)
        square[part] = torch.linalg.vecdot(relative[part], relative[part])
    return Frame(centre, scale, own_scale, relative, square)


def _relative(points: Tensor, centre: Tensor, scale: float, own_scale: float) -> Tensor:
    relative = points / scale - centre
    return relative if own_scale == 1.0 else relative.div_(own_scale)


def direct(
    queries: Float64[Tensor, "queries width"],
    left: Tensor,
    points: Float64[Tensor, "points width"],
    right: Tensor,
    scale: float,
    norm: Norm,
) -> Float64[Tensor, " pairs"]:
    """Return the distances of pairs of a query and a point, over a scale, from direct differences."""
    result, size = points.new_empty(len(left)), rows_at_once(points, points.shape[1])
    for start in range(0, len(left), size):
        pair = slice(start, start + size)
        away = queries.index_select(0, left[pair]).sub_(points.index_select(0, right[pair]))
        result[pair] = torch.linalg.vector_norm(away.div_(scale), P[norm], dim=1)
    return result
