"""Distance margins: the distance to the nearest other class mean, relative to a point's own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import (
    Array,
    ArrayT,
    Groups,
    as_float64,
    as_labels,
    as_points,
    binary_scale,
    group,
    group_means,
    like,
    rows_at_once,
)
from lpc.computing.numerics import measurement
from lpc.computing.threads import threads_for


@measurement
def distance_margin(
    train_latent: Float[Array, "train width"],
    train_label: Integer[Array, " train"],
    latent: Float[ArrayT, "points width"],
    label: Integer[Array, " points"],
) -> Float64[ArrayT, " points"]:
    r"""Return each point's distance to the nearest other class mean, over the distance to its own class mean.

    Parameters
    ----------
    train_latent, train_label
        Latents and labels from which the class means are taken; at least two classes.
    latent, label
        Points to measure, of the train set or another set, and their labels.

    Returns
    -------
    array
        One ratio per point, float64, same kind of array as ``latent``. Below 1: another class mean is nearer.
        Infinite: the point lies exactly on its class mean.

    Raises
    ------
    ValueError
        If the arrays are invalid, widths differ, there is a single class, no training point has a label, or a
        point lies on its own class mean and another's at once.

    Notes
    -----
    :math:`\min_{k \ne y}\lVert z - \mu_k\rVert_2 \,/\, \lVert z - \mu_y\rVert_2`. The share below 1 is one
    minus the nearest-mean accuracy, but for ties. Neither scale nor offset matters: the points are centred
    and divided by a power of two, the distances are of direct differences, and the means are taken twice, so
    that only the rounding of the input remains.

    Points of the train set have a share in their class's mean: with n points in a class, the distance of a
    point from it is (n - 1)/n of that from the mean of the others. A class of one point gives infinity.

    References
    ----------
    The distance margins of the 2025 release: nearest other centroid over own centroid.
    """
    train, points = as_points(train_latent, name="train_latent"), as_points(latent)
    points = points.to(train.device)
    if train.shape[1] != points.shape[1]:
        raise ValueError(f"train_latent has width {train.shape[1]} and latent has width {points.shape[1]}")
    groups = group(as_labels(train_label, train, name="train_label"))
    if len(groups.value) < 2:
        raise ValueError(f"train_label holds one class, {groups.value.tolist()}; expected 2 or more")
    target = as_labels(label, points)
    unseen = sorted(set(target.unique().tolist()) - set(groups.value.tolist()))
    if unseen:
        raise ValueError(f"label holds {unseen}, which no training point has")
    index = torch.searchsorted(groups.value, target)
    train, points = _together(train, points)
    origin = train.mean(dim=0)
    train, points = _together(train - origin, points - origin)
    mean = group_means(train, groups)
    rest = group_means(train - mean[groups.index], groups)  # remainder after the rounding of the means
    blocks = _blocks(points, index, rows_at_once(len(mean), points.device))
    parts = [_ratios(some, own, mean, rest, groups, first) for first, some, own in blocks]
    return like(torch.cat(parts), latent)


def _together(train: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return both over one power of two, the larger of their scales."""
    scale = max(binary_scale(train), binary_scale(points))
    return train / scale, points / scale


def _blocks(points: Tensor, index: Tensor, size: int) -> list[tuple[int, Tensor, Tensor]]:
    """Return blocks of points with their classes, each with the index of its first point."""
    starts = range(0, len(points), size)
    return list(zip(starts, points.split(size), index.split(size), strict=True))


def _ratios(
    points: Float64[Tensor, "points width"],
    index: Int64[Tensor, " points"],
    mean: Float64[Tensor, "classes width"],
    rest: Float64[Tensor, "classes width"],
    groups: Groups,
    first: int,
) -> Float64[Tensor, " points"]:
    """Return a block's ratios; ``first`` is the index of its first point."""
    own = _length(points - mean[index] - rest[index])
    with threads_for(points.numel() * len(mean)):
        every = torch.cdist(points, mean, compute_mode="donot_use_mm_for_euclid_dist")
    every.scatter_(1, index[:, None], torch.inf)
    other, nearest = every.min(dim=1)
    both = (own == 0) & (other == 0)
    if bool(both.any()):
        bad = int(torch.nonzero(both)[0])
        names = groups.value[[int(index[bad]), int(nearest[bad])]].tolist()
        raise ValueError(
            f"latent: point {first + bad} lies on the means of classes {names[0]} and {names[1]}, "
            "which coincide: its margin is undefined"
        )
    return other / own


def _length(difference: Float64[Tensor, "points width"]) -> Float64[Tensor, " points"]:
    """Return the norm of each row, whose squares may be below the smallest float."""
    largest = difference.abs().amax(dim=1, keepdim=True)
    unit = difference / torch.where(largest > 0, largest, 1.0)
    return torch.linalg.vector_norm(unit, dim=1) * largest[:, 0]


class MarginSummary(NamedTuple):
    """Distance margins of a set of points.

    Attributes
    ----------
    points
        Number of points.
    mean
        Mean margin; infinite if one margin is. A few points close to their mean make it large.
    median
        Median margin; the mean of the middle two for an even number.
    share_below_one
        Share of points that are nearer to another class mean than to their own.
    on_mean
        Number of points exactly on their class mean, whose margin is infinite.
    """

    points: int
    mean: float
    median: float
    share_below_one: float
    on_mean: int


@measurement
def summary(margin: Float[Array, " points"]) -> MarginSummary:
    """Return mean, median, share below one and number of infinite values of some distance margins.

    Parameters
    ----------
    margin
        Margins from :func:`distance_margin`, one per point.

    Raises
    ------
    ValueError
        If the input is no array of floats, is empty, or contains NaN or a negative margin (the message gives
        its index).
    """
    value = as_float64(margin, name="margin", dims=1, finite=False).cpu().numpy()
    bad = np.flatnonzero(~(value >= 0))
    if len(bad):
        raise ValueError(f"margin is {value[bad[0]]} at index {bad[0]}; expected ratios of 0 or more")
    return MarginSummary(
        points=len(value),
        mean=float(value.mean()),
        median=float(np.median(value)),
        share_below_one=float((value < 1).mean()),
        on_mean=int(np.isinf(value).sum()),
    )
