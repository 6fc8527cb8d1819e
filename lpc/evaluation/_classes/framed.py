"""Labelled points about a location, taken in blocks that stay in a CPU's cache: no copy of all is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lpc.arrays import Array, Groups, binary_scale, extremes, floats, group_sums, points_at_once

_PLAIN = 2.0**-300, 2.0**300  # squares of such deviations, and their sums, stay far inside float64


class Framed(NamedTuple):
    """Points minus a location, over a scale.

    Attributes
    ----------
    points
        Points as given, shape (points, width), float32 or float64.
    location
        What is subtracted, shape (width,), float64.
    scale
        Power of two that divides the differences; 1 where their squares neither under- nor overflow.
    largest
        Largest absolute entry of the points.
    """

    points: Tensor
    location: Tensor
    scale: float
    largest: float

    def blocks(self, *each: Tensor) -> Iterator[tuple[Float64[Tensor, "block width"], tuple[Tensor, ...]]]:
        """Yield blocks of the framed points, in memory that the next block reuses, and parts of others."""
        size = points_at_once(self.points)
        room = self.location.new_empty(min(size, len(self.points)), len(self.location))
        for start in range(0, len(self.points), size):
            part = slice(start, start + size)
            own = self.points[part]
            block = torch.sub(own, self.location, out=room[: len(own)])
            yield (block if self.scale == 1.0 else block.div_(self.scale)), tuple(one[part] for one in each)

    def means(self, groups: Groups) -> Float64[Tensor, "classes width"]:
        """Return the mean of each class.

        It is taken twice, the second time of the residual, so that the rounding of the sum does not show
        beside the spread of a collapsed class.
        """
        classes, total = len(groups.value), groups.count[:, None]
        first, rest = self.location.new_zeros(2, classes, len(self.location))
        for block, (index,) in self.blocks(groups.index):
            first += group_sums(block, index, classes)
        first /= total
        for deviation, (index,) in self.deviations(first, groups.index):
            rest += group_sums(deviation, index, classes)
        return first + rest / total

    def deviations(
        self, mean: Float64[Tensor, "classes width"], index: Int64[Tensor, " points"], *each: Tensor
    ) -> Iterator[tuple[Float64[Tensor, "block width"], tuple[Tensor, ...]]]:
        """Yield blocks of points minus the means of their classes, and parts of the index and others."""
        for block, (own, *others) in self.blocks(index, *each):
            yield block.sub_(mean[own]), (own, *others)

    def variances(
        self, mean: Float64[Tensor, "classes width"], groups: Groups
    ) -> Float64[Tensor, " classes"]:
        """Return the mean squared distance of the points of each class from their mean."""
        total = mean.new_zeros(len(mean), 1)
        for deviation, (index,) in self.deviations(mean, groups.index):
            squared = torch.linalg.vecdot(deviation, deviation)
            total += group_sums(squared[:, None], index, len(mean))
        return total[:, 0] / groups.count


def about_mean(latent: Array) -> Framed:
    """Return points about their mean; ValueError for invalid ones.

    Parameters
    ----------
    latent
        Points, shape (points, width), float32 or float64.
    """
    points = floats(latent, name="latent", dims=2)
    low, high = _range(points)
    size = points_at_once(points)
    sums = torch.stack([part.sum(dim=0, dtype=torch.float64) for part in points.split(size)])
    location = sums.sum(dim=0) / len(points)
    scale = _scale(torch.stack((low - location, high - location)))
    return Framed(points, location, scale, float(torch.maximum(-low, high).max()))


def about_zero(latent: Array, *, name: str = "latent") -> Framed:
    """Return points about zero; ValueError for invalid ones.

    Parameters
    ----------
    latent
        Points, shape (points, width), float32 or float64.
    name
        Name of the argument, for error messages.
    """
    points = floats(latent, name=name, dims=2)
    origin = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    return Framed(points, origin, _scale(points), max(abs(end) for end in extremes(points)))


def _scale(deviation: Tensor) -> float:
    scale = binary_scale(deviation)
    return 1.0 if _PLAIN[0] < scale < _PLAIN[1] else scale


def _range(points: Float[Tensor, "points width"]) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest entry of each node, float64; NumPy is three times as fast on a CPU."""
    if points.device.type != "cpu":
        return points.amin(dim=0).double(), points.amax(dim=0).double()
    value = points.numpy()
    return torch.from_numpy(value.min(axis=0)).double(), torch.from_numpy(value.max(axis=0)).double()
