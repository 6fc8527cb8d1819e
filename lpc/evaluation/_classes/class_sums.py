"""Counts, means and scatter of classes, kept in one pass over batches of labelled points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lpc.arrays import group_sums


class ClassSums(NamedTuple):
    """Running sums over points, all zeros at first. Never changed in place: adding returns new sums.

    Attributes
    ----------
    count
        Number of points of each class, shape (classes,), int64.
    origin, offset
        Class means as ``origin + offset``, each of shape (classes, width): the mean in the first batch that
        had the class, and the correction from later batches. In a single double, every batch would add
        rounding that is large beside the spread of a collapsed class.
    scatter
        Sum over points of the outer product of (point - mean of its class) with itself, pooled over classes,
        shape (1, width, width), or class by class, shape (classes, width, width).
    """

    count: Tensor
    origin: Tensor
    offset: Tensor
    scatter: Tensor


def no_points(
    classes: int, width: int, *, pooled: bool, device: torch.device | str | None = None
) -> ClassSums:
    """Return the sums of no points: all zeros, float64 except for the count."""
    count = torch.zeros(classes, dtype=torch.int64, device=device)
    mean = torch.zeros(classes, width, dtype=torch.float64, device=device)
    scatter = mean.new_zeros(1 if pooled else classes, width, width)
    return ClassSums(count, mean, mean.clone(), scatter)


def with_points(
    sums: ClassSums, points: Float64[Tensor, "points width"], index: Int64[Tensor, " points"]
) -> ClassSums:
    """Return the sums with points added; deviations are from the means of these points, taken directly."""
    classes = len(sums.count)
    count = torch.bincount(index, minlength=classes)
    known = count.clamp(min=1)[:, None]
    origin = group_sums(points, index, classes) / known
    deviation = points - origin[index]
    offset = group_sums(deviation, index, classes) / known
    deviation -= offset[index]
    result = _with_means(sums, count, origin, offset)
    if len(result.scatter) == 1:
        result.scatter[0].addmm_(deviation.T, deviation)
    else:
        parts = deviation[index.argsort(stable=True)].split(count.tolist())
        for scatter, part in zip(result.scatter, parts, strict=True):
            scatter.addmm_(part.T, part)
    return result


def merged(sums: ClassSums, other: ClassSums) -> ClassSums:
    """Return the sums of both sets of points, on the device of the first."""
    count, origin, offset, scatter = (state.to(sums.count.device) for state in other)
    result = _with_means(sums, count, origin, offset)
    result.scatter.add_(scatter)
    return result


def _with_means(
    sums: ClassSums,
    count: Int64[Tensor, " classes"],
    origin: Float64[Tensor, "classes width"],
    offset: Float64[Tensor, "classes width"],
) -> ClassSums:
    r"""Return new sums with other means merged in; the caller adds the scatter about those means.

    Notes
    -----
    With :math:`\delta = \mu_b - \mu_a`: :math:`\mu = \mu_a + \frac{n_b}{n_a + n_b}\delta`, and beside the
    other's own scatter there is :math:`\frac{n_a n_b}{n_a + n_b}\delta\delta^\top` (Chan, Golub and LeVeque
    1983, The American Statistician 37 (3)).
    """
    total = sums.count + count
    share = (count / total.clamp(min=1).to(torch.float64))[:, None]
    gap = (origin - sums.origin) + (offset - sums.offset)
    rows = gap * (sums.count[:, None] * share).sqrt()
    rows = rows.reshape(len(sums.scatter), -1, rows.shape[1])  # all classes together, or one in each
    new = (sums.count == 0)[:, None]
    return ClassSums(
        count=total,
        origin=torch.where(new, origin, sums.origin),
        offset=torch.where(new, offset, sums.offset + share * gap),
        scatter=torch.baddbmm(sums.scatter, rows.mT, rows),
    )
