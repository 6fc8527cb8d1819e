"""Compact groups of points with a ball around each: points in distant balls need not be compared."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lpc.arrays import EPSILON
from lpc.evaluation._searching.frames import rows_at_once

_SAMPLE = 1024
_MOST = 128
_SEEN_WIDTH = 64
_ROUNDS = 4
_TOUCHING = 8  # times every point would be looked at by groups that touch its own: then all are one
_DROP = 0.5  # a further centre that shrinks the covering radius below this share shows separate groups


class Clusters(NamedTuple):
    """Groups of points; every point is in one. Centres and radii are those of the points over a scale.

    Attributes
    ----------
    member
        Indices of each group's points.
    size
        Number of points in each group, shape (groups,).
    centre
        Centre of each group, divided by the scale, shape (groups, width).
    radius
        Largest distance of a member from its centre, divided by the scale, shape (groups,).
    """

    member: list[Int64[Tensor, " members"]]
    size: Int64[Tensor, " groups"]
    centre: Float64[Tensor, "groups width"]
    radius: Float64[Tensor, " groups"]

    def gaps(self) -> Float64[Tensor, "groups groups"]:
        """Return a lower bound of the distance of any two points of two groups; -1 for a group itself."""
        between = _distance(self.centre, self.centre)
        slack = 64 * self.centre.shape[1] * EPSILON * (1 + between)
        return (between - self.radius[:, None] - self.radius - slack).clamp(min=0.0).fill_diagonal_(-1.0)


def clusters(points: Float64[Tensor, "points width"], scale: float) -> Clusters:
    """Group points around distant centres if they form separate groups, else put them in one group.

    Parameters
    ----------
    points
        Points, shape (points, width), float64, on any device.
    scale
        Divisor of the points, so that squares neither under- nor overflow.

    Notes
    -----
    Centres are chosen in a sample of 1,024 points, each the farthest from those before (Gonzalez 1985), up
    to 128 of them; the sample is seen in 64 random directions where there are more dimensions. As many
    centres are kept as make the covering radius fall most at one step; where no step halves it, one. A far
    point that was not drawn joins the sample, which is then grouped again. Where groups touch many others,
    all points become one group. Any grouping gives valid balls.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randperm(len(points), generator=generator, device="cpu")[:_SAMPLE]
    sample = points[drawn.to(points.device)] / scale
    width = min(points.shape[1], _SEEN_WIDTH)
    shape = points.shape[1], width
    view = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") / width**0.5
    for _ in range(_ROUNDS):
        seen = sample if width == points.shape[1] else sample @ view.to(points.device)
        chosen, covering = _spread(seen.cpu())  # small: a GPU would be waited for at every centre
        found, farthest = _around(points, scale, sample[chosen])
        if float(found.radius.max()) <= 3 * covering:
            break
        sample = torch.cat([sample, points[farthest] / scale])  # outliers that were not drawn
    if int(((found.gaps() <= 0) * found.size).sum()) > _TOUCHING * len(points):
        return _around(points, scale, sample.mean(dim=0, keepdim=True))[0]
    return found


def _spread(sample: Float64[Tensor, "sample width"]) -> tuple[list[int], float]:
    """Return the indices of distant centres, and the largest distance of a point from its nearest centre."""
    distance = _distance(sample, sample.mean(dim=0, keepdim=True))[:, 0]
    chosen, radii = [int(distance.argmin())], []
    distance = _distance(sample, sample[chosen])[:, 0]
    while True:
        radii.append(float(distance.max()))
        if radii[-1] == 0.0 or len(chosen) == min(_MOST, len(sample)):
            break
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, _distance(sample, sample[chosen[-1:]])[:, 0])
    falls = [after / before for before, after in itertools.pairwise(radii)]
    kept = 2 + falls.index(min(falls)) if falls and min(falls) < _DROP else 1
    return chosen[:kept], radii[kept - 1]


def _around(
    points: Float64[Tensor, "points width"], scale: float, centre: Float64[Tensor, "groups width"]
) -> tuple[Clusters, Int64[Tensor, " groups"]]:
    """Group points by their nearest centre; return the groups, and the farthest point of each."""
    # Filled in place: small results kept between large blocks would leave holes in memory.
    apart, index = points.new_empty(len(points)), points.new_empty(len(points), dtype=torch.int64)
    rows = rows_at_once(points, max(points.shape[1], len(centre)))
    for start in range(0, len(points), rows):
        block = slice(start, start + rows)
        apart[block], index[block] = _distance(points[block] / scale, centre).min(dim=1)
    size = torch.bincount(index, minlength=len(centre))
    member = index.argsort(stable=True).split(size.tolist())
    kept = [own for own in member if len(own)]
    farthest = torch.cat([own.index_select(0, apart[own].argmax().view(1)) for own in kept])
    return Clusters(kept, size[size > 0], centre[size > 0], apart[farthest]), farthest


def _distance(left: Tensor, right: Tensor) -> Tensor:
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
