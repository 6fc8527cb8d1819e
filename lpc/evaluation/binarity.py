"""Whether each node of a latent takes one of two values, and whether class means sit on a hypercube."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    ArrayT,
    Convention,
    as_labels,
    as_points,
    binary_scale,
    centre,
    check_convention,
    group,
    group_means,
    like,
    tensor_of,
)
from lpc.computing.numerics import measurement
from lpc.computing.options import flag
from lpc.evaluation.mixture import Bimodal, fit_bimodal

__all__ = ["Bimodal", "Binarity", "Hypercube", "binarity", "fit_bimodal", "hypercube"]

_DEAD = 0.01


class Binarity(NamedTuple):
    """Averages over the dimensions that are not degenerate.

    Attributes
    ----------
    log_likelihood
        Log-likelihood of Eq. 25, in nats per value.
    sigma
        Eq. 26, in latent units (in sds of the dimension if standardised).
    mu
        Eq. 27: distance between the two means in units of the average sd.
    degenerate
        Number of dimensions left out because a component is one repeated value, so that log-likelihood and mu
        are infinite.
    unconverged
        Number of averaged dimensions whose fit stopped before it converged.
    """

    log_likelihood: float
    sigma: float
    mu: float
    degenerate: int
    unconverged: int


@measurement
def binarity(
    latent: Float[Array, "points width"],
    *,
    standardise: bool = False,
    convention: Convention = "paper",
    reg_covar: float = 0.0,
) -> Binarity:
    r"""Fit two Gaussians to each dimension of the latents and average log-likelihood, sigma and mu.

    Parameters
    ----------
    latent
        Latents, shape (points, width), float32 or float64.
    standardise
        Whether each dimension is first centred and divided by its population sd, as in the release. If not,
        log-likelihood and sigma follow the latents' scale; mu never does.
    convention
        Definition of the log-likelihood. ``"paper"``: each point under the component responsible for it,
        without mixture weights. ``"released"``: the mixture with its weights (scikit-learn's ``score``).
    reg_covar
        Constant added to the variances after every step of the fit, as in scikit-learn, in squared units of
        the latents (of the standardised values with ``standardise``). Above 0, no dimension is degenerate,
        sigma is at least its root, and mu is bounded: in standardised values by 2 over its root.

    Raises
    ------
    ValueError
        If the array is invalid, there are fewer than two points, ``reg_covar`` is negative, or every
        dimension is degenerate.

    Notes
    -----
    The 2024 release's numbers are ``standardise=True, convention="released", reg_covar=1e-6``, up to its
    fit's tolerance and start.

    ``paper`` reads Eq. 25, which has one Gaussian "(1, 2)" and no weights, as
    :math:`\bar\ell = \frac1{NP}\sum_{n,i} \log\mathcal N(z_i^{(n)}|\mu_i^{(c)}, \sigma_i^{(c)2})` with c the
    component of the larger posterior (weights included) at :math:`z_i^{(n)}`. ``released``:
    :math:`\frac1{NP}\sum_{n,i}\log\sum_c w_i^{(c)}\mathcal N(z_i^{(n)}|\mu_i^{(c)}, \sigma_i^{(c)2})`.

    :math:`\bar\sigma = \frac1P\sum_i \frac{\sigma_i^{(1)}+\sigma_i^{(2)}}2`,
    :math:`\bar\mu = \frac1P\sum_i \frac{|\mu_i^{(2)}-\mu_i^{(1)}|}{(\sigma_i^{(1)}+\sigma_i^{(2)})/2}`.

    References
    ----------
    LPC 2024, Appendix D, Eqs. 25-27 and Figure 2.
    """
    check_convention(convention)
    points = as_points(latent)
    if flag("standardise", standardise):
        centred = centre(points)
        constant = centred.abs().amax(dim=0) <= 8 * EPSILON * points.abs().amax(dim=0)
        centred = centred / binary_scale(centred)
        sd = centred.square().mean(dim=0).sqrt()
        points = torch.where(constant, 0.0, centred / torch.where(constant, 1.0, sd))
    weight, mean, sd, log_likelihood, converged, degenerate, _ = (
        tensor_of(field) for field in fit_bimodal(points, reg_covar=reg_covar)
    )
    kept = ~degenerate
    if not bool(kept.any()):
        raise ValueError(
            f"all {len(kept)} dimensions of latent are degenerate: a component is one repeated value"
        )
    average = sd[kept].mean(dim=1)
    if convention == "paper":
        score = _responsible(points[:, kept], weight[kept], mean[kept], sd[kept])
    else:
        score = float(log_likelihood[kept].mean())
    return Binarity(
        log_likelihood=score,
        sigma=float(average.mean()),
        mu=float(((mean[kept, 1] - mean[kept, 0]) / average).mean()),
        degenerate=int(degenerate.sum()),
        unconverged=int((~converged[kept]).sum()),
    )


def _responsible(
    points: Float64[Tensor, "points width"],
    weight: Float64[Tensor, "width 2"],
    mean: Float64[Tensor, "width 2"],
    sd: Float64[Tensor, "width 2"],
) -> float:
    """Return the mean log density of each value under its component of larger posterior."""
    low, high = (
        -0.5 * ((points - mean[:, c]) / sd[:, c]).square() - sd[:, c].log() - 0.5 * math.log(2 * math.pi)
        for c in (0, 1)
    )
    return float(torch.where(high + weight[:, 1].log() > low + weight[:, 0].log(), high, low).mean())


class Hypercube(NamedTuple):
    """Distance of the class means from the vertices of a hypercube centred on the origin.

    Attributes
    ----------
    variation
        Population sd over mean, taken over classes, of the absolute coordinate of the class means at each
        node: 0 on a hypercube, NaN for a dead node. Shape (width,), same kind of array as the latents.
    mean_variation
        Mean of ``variation`` over the nodes that are not dead.
    patterns
        Number of different sign patterns of the class means over the nodes that are not dead.
    classes
        Number of classes; each has its own vertex if ``patterns`` equals it.
    dead
        Number of dead nodes, whose class means have an rms below 1 % of that of the largest node.
    """

    variation: Array
    mean_variation: float
    patterns: int
    classes: int
    dead: int


@measurement
def hypercube(latent: Float[ArrayT, "points width"], label: Integer[Array, " points"]) -> Hypercube:
    r"""Compare the class means with the vertices of a hypercube centred on the origin.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).

    Notes
    -----
    With :math:`m_{ci}` coordinate i of the mean of class c: the variation of node i is
    :math:`\mathrm{sd}_c |m_{ci}| / \mathrm{mean}_c |m_{ci}|`. The edge may differ from node to node.

    Raises
    ------
    ValueError
        If the arrays are invalid, or all class means are zero.

    References
    ----------
    LPC 2024, Section 2.2 and Appendix D.
    """
    points = as_points(latent)
    groups = group(as_labels(label, points))
    size = group_means(points / binary_scale(points), groups)
    rms = size.square().mean(dim=0).sqrt()
    if float(rms.max()) == 0.0:
        raise ValueError("latent: all class means are zero: they have no sign patterns")
    alive = rms >= _DEAD * rms.max()
    absolute = size.abs()
    variation = absolute.std(dim=0, correction=0) / absolute.mean(dim=0)
    variation = torch.where(alive, variation, math.nan)
    return Hypercube(
        variation=like(variation, latent),
        mean_variation=float(variation[alive].mean()),
        patterns=len(torch.unique(size[:, alive] > 0, dim=0)),
        classes=len(groups.value),
        dead=int((~alive).sum()),
    )
