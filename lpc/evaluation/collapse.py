"""Collapse of the latents of each class, and their scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer

from lpc.arrays import (
    Array,
    ArrayT,
    Convention,
    as_float64,
    as_labels,
    as_points,
    binary_scale,
    check_convention,
    deviations,
    floats,
    group,
    like,
    within_weights,
)
from lpc.computing.numerics import measurement
from lpc.computing.threads import threads_for
from lpc.evaluation._classes.class_means import about_global_mean, check_spread
from lpc.evaluation._classes.framed import about_mean, about_zero
from lpc.evaluation._classes.nearest import nearest_row


@measurement
def within_class_covariance(
    latent: Float[ArrayT, "points width"],
    label: Integer[Array, " points"],
    *,
    convention: Convention = "paper",
) -> Float64[ArrayT, "width width"]:
    r"""Return the within-class covariance matrix of the latents, in squared latent units.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).
    convention
        Average over classes. ``"paper"``: sum over points divided by the number of points. ``"released"``:
        unbiased covariance of each class, averaged over classes without weights.

    Returns
    -------
    array
        Covariance, shape (width, width), float64, same kind of array as ``latent``.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, shapes do not match, labels are not integers, or under
        ``"released"`` a class has a single point.

    Notes
    -----
    ``paper``: :math:`\Sigma_W = \frac1N \sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top`, our reading of
    Eq. 7, whose N is ambiguous. ``released``:
    :math:`\frac1K\sum_c \frac1{n_c-1}\sum_{i: y_i = c} (z_i - \mu_c)(z_i - \mu_c)^\top`. Both fall with
    the square of the latents' scale; :func:`within_between_traces` does not.

    References
    ----------
    LPC 2024, Eq. 7 (and Eq. 28).
    """
    check_convention(convention)
    points = as_points(latent)
    groups = group(as_labels(label, points))
    weight = within_weights(groups, convention)
    deviation = deviations(points, groups)
    scale = binary_scale(deviation)
    deviation = deviation / scale
    weighted = (deviation * weight[:, None]).T
    with threads_for(deviation.numel() * deviation.shape[1]):
        covariance = weighted @ deviation
    covariance = 0.5 * (covariance + covariance.T)
    return like(covariance * scale**2, latent)


@measurement
def mean_entry(covariance: Float[Array, "width width"]) -> float:
    r"""Return the mean of all entries of a covariance matrix, the scalar that the release printed.

    Parameters
    ----------
    covariance
        Square matrix, in squared latent units.

    Notes
    -----
    :math:`\frac1{P^2}\sum_{ij}\Sigma_{ij}`: the variance of the mean over nodes. It is zero for deviations
    that cancel over the nodes, however large they are; the trace is not.

    References
    ----------
    LPC 2024, Table 1, column Sigma_W, as released.
    """
    value = as_float64(covariance, name="covariance", dims=2)
    if value.shape[0] != value.shape[1]:
        raise ValueError(f"covariance has shape {tuple(value.shape)}; expected a square matrix")
    return float(value.mean())


class Traces(NamedTuple):
    """Traces of the covariances, in squared latent units.

    Attributes
    ----------
    within
        Trace of the within-class covariance (``paper``: sum over points / number of points).
    between
        Trace of the covariance of the class means about the mean of all points, averaged over classes without
        weights.
    ratio
        ``within / between``, independent of the latents' scale.
    """

    within: float
    between: float
    ratio: float


@measurement
def within_between_traces(latent: Float[Array, "points width"], label: Integer[Array, " points"]) -> Traces:
    r"""Return tr Sw, tr Sb and their ratio, under the paper's convention.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).

    Notes
    -----
    :math:`\mathrm{tr}\,\Sigma_W = \frac1N\sum_i \lVert z_i - \mu_{y_i}\rVert^2` and
    :math:`\mathrm{tr}\,\Sigma_B = \frac1K\sum_c \lVert \mu_c - \mu_G\rVert^2` with :math:`\mu_G` the mean
    of all points.

    Raises
    ------
    ValueError
        If the arrays are invalid, there are fewer than two classes, every class has a single point, or class
        means coincide.

    References
    ----------
    LPC 2024, Eqs. 7 and 29.
    """
    framed = about_mean(latent)
    groups = group(as_labels(label, framed.points))
    if len(groups.value) < 2:
        raise ValueError(f"label holds one class, {groups.value.tolist()}; expected 2 or more")
    check_spread(groups.value, groups.count)
    mean, scale = framed.means(groups), framed.scale
    within = float(framed.variances(mean, groups) @ groups.count.double()) / len(framed.points)
    between = float(about_global_mean(mean, groups.count).square().sum(dim=1).mean())
    if between == 0.0:
        raise ValueError("latent: all class means coincide; the ratio of their traces is undefined")
    return Traces(within * scale**2, between * scale**2, within / between)


@measurement
def norm_coefficient_of_variation(latent: Float[Array, "points width"]) -> float:
    r"""Return the sd over the mean of the latents' Euclidean norms (population sd: divided by N).

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.

    Raises
    ------
    ValueError
        If the array is invalid, or all latents are zero.

    References
    ----------
    LPC 2024, Section 3.1 and Table 1.
    """
    norm = torch.cat([torch.linalg.vector_norm(block, dim=1) for block, _ in about_zero(latent).blocks()])
    mean = float(norm.mean())
    if mean == 0.0:
        raise ValueError("all latents are zero: the coefficient of variation of their norms is undefined")
    return float(norm.std(correction=0)) / mean


@measurement
def rescale_to_unit_rms(latent: Float[ArrayT, "points width"]) -> Float64[ArrayT, "points width"]:
    r"""Return the latents divided by the root mean square of all their entries, about zero.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.

    Notes
    -----
    :math:`z / \sqrt{\frac1{NP}\sum_{np} z_{np}^2}`: the mean square over points and nodes becomes 1. The
    mean is not removed. A metric of the result describes shape, not scale.

    Raises
    ------
    ValueError
        If the array is invalid, or all latents are zero.
    """
    points = as_points(latent)
    points = points / binary_scale(points)
    rms = points.square().mean().sqrt()
    if float(rms) == 0.0:
        raise ValueError("all latents are zero: they cannot be rescaled to unit rms")
    return like(points / rms, latent)


@measurement
def nearest_mean_accuracy(
    train_latent: Float[Array, "train width"],
    train_label: Integer[Array, " train"],
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
) -> float:
    r"""Return the share of points whose nearest class mean, in the latent space, is their own class's.

    If it is high and the network's accuracy low, the latents are separable but the readout is lost.
    Distances are Euclidean and taken as direct differences, so neither scale nor offset matters.

    Parameters
    ----------
    train_latent, train_label
        Latents and labels from which the class means are taken.
    latent, label
        Latents to classify, and their labels. Ties go to the smaller label.

    Raises
    ------
    ValueError
        If the arrays are invalid, widths differ, or no training point has a label.
    """
    framed = about_zero(train_latent, name="train_latent")
    train, points = framed.points, floats(latent, name="latent", dims=2).to(framed.points.device)
    if train.shape[1] != points.shape[1]:
        raise ValueError(f"train_latent has width {train.shape[1]} and latent has width {points.shape[1]}")
    groups = group(as_labels(train_label, train, name="train_label"))
    target = as_labels(label, points)
    unseen = sorted(set(target.unique().tolist()) - set(groups.value.tolist()))
    if unseen:
        raise ValueError(f"label holds {unseen}, which no training point has")
    mean = framed.means(groups)
    own = framed._replace(points=points)
    nearest = groups.value[torch.cat([nearest_row(block, mean) for block, _ in own.blocks()])]
    return float((nearest == target).to(torch.float64).mean())
