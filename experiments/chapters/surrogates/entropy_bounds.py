"""Gaussian bounds on entropies, and how far they lie above the entropy of separated classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import Array, as_labels, as_points, group
from lpc.evaluation.quantities import ZERO_ENTROPY_VARIANCE


class Bounds(NamedTuple):
    """Upper bounds on entropies, in nats.

    Attributes
    ----------
    covariance, variances
        Bounds on H[Z] from the full covariance, and from the nodes' variances alone.
    within_covariance, within_variances
        The same bounds on H[Z | Y], computed in every class and weighted by the classes' shares.
    """

    covariance: float
    variances: float
    within_covariance: float
    within_variances: float


def _of_covariance(covariance: Float64[Tensor, "width width"]) -> Float64[Tensor, " 2"]:
    scaled = 2 * math.pi * math.e * covariance
    return 0.5 * torch.stack([torch.logdet(scaled), scaled.diagonal().log().sum()])


def gaussian_bounds(
    mean: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    variance: float = ZERO_ENTROPY_VARIANCE,
) -> Bounds:
    r"""Return Theorem 2's bounds for Z = mean(X) + Gaussian noise, with X uniform over the points.

    Parameters
    ----------
    mean
        Latent of each point before noise is added, shape (points, width).
    label
        Class of each point.
    variance
        Variance of the noise at each node, in squared latent units.

    Raises
    ------
    ValueError
        If the arrays are invalid, or the variance is not positive and finite.

    Notes
    -----
    :math:`H[Z] \le \frac12\ln\det(2\pi e\,\mathrm{Cov}[Z]) \le \sum_i\frac12\ln(2\pi e\,\mathrm{Var}[Z_i])`
    with the mixture's exact covariance: that of the points, divided by their number, plus that of the noise.
    No sample of Z is drawn.

    References
    ----------
    Kirsch et al. 2020, Observation 7 and Appendix A.6.
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance is {variance}; expected a positive, finite number")
    points = as_points(mean, name="mean")
    groups = group(as_labels(label, points))

    def bound(own: Tensor) -> Tensor:
        centred = own - own.mean(dim=0)
        noise = variance * torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
        return _of_covariance(centred.T @ centred / len(own) + noise)

    share = groups.count.to(torch.float64) / len(points)
    within = torch.stack([bound(points[groups.index == c]) for c in range(len(share))])
    return Bounds(*bound(points).tolist(), *(share @ within).tolist())


def bound_of_points(apart: np.ndarray, *, classes: int, nodes: int | None = None) -> np.ndarray:
    r"""Return the Gaussian bound on H[Z], in nats, for classes that are points at equal distances.

    Parameters
    ----------
    apart
        Distance between any two points, in standard deviations of zero-entropy noise.
    classes
        Number of classes, at least 2, equally probable.
    nodes
        Number of nodes, for the bound from the nodes' variances with two classes on the diagonal; None: the
        bound from the full covariance.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or nodes are below 1 or given with more than two classes.

    Notes
    -----
    The points' covariance has K - 1 eigenvalues :math:`\Delta^2/2K` in units of the noise's variance, so the
    bound is :math:`\frac{K-1}2\ln(1 + \Delta^2/2K)`. On the diagonal, each of k nodes has the variance
    :math:`\Delta^2/4k`, and the bound is :math:`\frac k2\ln(1 + \Delta^2/4k)`. H[Z] itself is at most ln K.
    """
    if classes < 2 or (nodes is not None and (nodes < 1 or classes != 2)):
        raise ValueError(f"classes={classes}, nodes={nodes}; expected 2 or more, or 2 on 1 or more nodes")
    if nodes is None:
        return 0.5 * (classes - 1) * np.log1p(apart**2 / (2 * classes))
    return 0.5 * nodes * np.log1p(apart**2 / (4 * nodes))
