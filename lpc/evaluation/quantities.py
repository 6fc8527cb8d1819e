"""Information quantities of data X, label Y and latent Z, by the names of Kirsch et al., in nats."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import (
    SUM_TOLERANCE,
    Array,
    as_distributions,
    as_float64,
    as_labels,
    as_points,
    group,
    group_sums,
    not_negative,
)
from lpc.computing.numerics import measurement
from lpc.evaluation.posterior import posterior_entropies

ZERO_ENTROPY_VARIANCE = 1.0 / (2.0 * math.pi * math.e)
"""Variance of the Gaussian whose differential entropy is zero in every dimension."""


class Quantities(NamedTuple):
    """Information quantities of X, Y and Z, in nats.

    Attributes
    ----------
    label_entropy
        H[Y].
    encoding_entropy
        H[Z]; for a continuous Z a differential entropy.
    label_uncertainty
        H[Y | X].
    encoding_uncertainty
        H[Z | X]; for a continuous Z a differential entropy.
    decoder_uncertainty
        H[Y | Z].
    reverse_decoder_uncertainty
        H[Z | Y]; for a continuous Z a differential entropy.
    relevant_information
        I[X; Y].
    preserved_information
        I[X; Z].
    preserved_relevant_information
        I[Y; Z].
    residual_information
        I[X; Y | Z].
    redundant_information
        I[X; Z | Y].

    References
    ----------
    Kirsch et al. 2020, Section 3.2 and Appendix A.1.
    """

    label_entropy: float
    encoding_entropy: float
    label_uncertainty: float
    encoding_uncertainty: float
    decoder_uncertainty: float
    reverse_decoder_uncertainty: float
    relevant_information: float
    preserved_information: float
    preserved_relevant_information: float
    residual_information: float
    redundant_information: float


class Estimate(NamedTuple):
    """Information quantities and the standard error of each, 0 where it is exact.

    Attributes
    ----------
    quantities
        Information quantities in nats.
    standard_error
        Standard error of each quantity in nats.
    """

    quantities: Quantities
    standard_error: Quantities


def _entropy(probability: Tensor) -> float:
    return float(torch.special.entr(probability).sum())


@measurement
def discrete_quantities(joint: Float[Array, "x y z"]) -> Quantities:
    r"""Return the quantities of any joint distribution of discrete X, Y and Z, exactly.

    Parameters
    ----------
    joint
        Joint distribution p(x, y, z): non-negative, sums to one. Z need not be independent of Y given X.

    Raises
    ------
    ValueError
        If the array is invalid, a probability is negative, or the sum differs from one by more than 1e-5.

    Notes
    -----
    Each from entropies of marginals by its own definition, :math:`H[A|B] = H[A,B] - H[B]`,
    :math:`I[A;B] = H[A] + H[B] - H[A,B]` and
    :math:`I[A;B|C] = H[A,C] + H[B,C] - H[A,B,C] - H[C]`, so that a zero can come out as about
    1e-16 with either sign.

    References
    ----------
    Kirsch et al. 2020, Section 2.
    """
    probability = as_float64(joint, name="joint", dims=3)
    not_negative(probability, "joint")
    total = float(probability.sum())
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"joint sums to {total}; expected 1")
    probability = probability / total
    x, y, z = (_entropy(probability.sum(dim=summed)) for summed in ((1, 2), (0, 2), (0, 1)))
    yz, xz, xy = (_entropy(probability.sum(dim=summed)) for summed in (0, 1, 2))
    xyz = _entropy(probability)
    return Quantities(
        label_entropy=y,
        encoding_entropy=z,
        label_uncertainty=xy - x,
        encoding_uncertainty=xz - x,
        decoder_uncertainty=yz - z,
        reverse_decoder_uncertainty=yz - y,
        relevant_information=x + y - xy,
        preserved_information=x + z - xz,
        preserved_relevant_information=y + z - yz,
        residual_information=xz + yz - xyz - z,
        redundant_information=xy + yz - xyz - y,
    )


def _of_labelled_points(
    *,
    label_entropy: float,
    encoding_uncertainty: float,
    decoder_uncertainty: float,
    preserved_information: float,
    redundant_information: float,
) -> Quantities:
    """Return all quantities if X determines Y, so that H[Y | X] = 0 and Y - X - Z is a Markov chain."""
    return Quantities(
        label_entropy=label_entropy,
        encoding_entropy=encoding_uncertainty + preserved_information,
        label_uncertainty=0.0,
        encoding_uncertainty=encoding_uncertainty,
        decoder_uncertainty=decoder_uncertainty,
        reverse_decoder_uncertainty=encoding_uncertainty + redundant_information,
        relevant_information=label_entropy,
        preserved_information=preserved_information,
        preserved_relevant_information=label_entropy - decoder_uncertainty,
        residual_information=decoder_uncertainty,
        redundant_information=redundant_information,
    )


@measurement
def categorical_quantities(
    p_z_given_x: Float[Array, "points categories"], label: Integer[Array, " points"]
) -> Quantities:
    r"""Return the exact quantities of a categorical Z, with X uniform over the given points.

    Parameters
    ----------
    p_z_given_x
        Distribution over categories for each point, shape (points, categories): non-negative rows that sum to
        one.
    label
        Class of each point; X determines Y, so H[Y | X] is 0.

    Raises
    ------
    ValueError
        If the arrays are invalid, a probability is negative, or a row's sum differs from one by more than
        1e-5.

    Notes
    -----
    With :math:`p(y,z) = \frac1N\sum_{n: y_n = y} p(z|x_n)`. Differences of entropies are not clipped: a
    zero can come out as about 1e-16 with either sign.

    References
    ----------
    Kirsch et al. 2020, Sections 3.2 and 5.4.
    """
    probability = as_distributions(p_z_given_x, name="p_z_given_x")
    groups = group(as_labels(label, probability))
    points = probability.shape[0]
    joint = group_sums(probability, groups.index, len(groups.value)).T / points
    encoding = joint.sum(dim=1, keepdim=True)
    uncertainty = torch.special.xlogy(joint, encoding) - torch.special.xlogy(joint, joint)
    label_entropy = _entropy(groups.count.to(torch.float64) / points)
    encoding_uncertainty = _entropy(probability) / points
    return _of_labelled_points(
        label_entropy=label_entropy,
        encoding_uncertainty=encoding_uncertainty,
        decoder_uncertainty=max(float(uncertainty.sum()), 0.0),
        preserved_information=_entropy(encoding) - encoding_uncertainty,
        redundant_information=_entropy(joint) - label_entropy - encoding_uncertainty,
    )


def _standard_error(value: Float64[Tensor, "draws points"], total: int) -> float:
    """Return the standard error of the mean over draws and over points out of ``total``."""
    draws, points = value.shape
    share = points / total if draws > 1 else 0.0  # the part of the spread over points that is no error
    if value.numel() < 2 or (points < 2 and share < 1):
        return math.nan
    between = float(value.mean(dim=0).var()) if share < 1 else 0.0
    within = float(value.var(dim=0).mean()) / draws if draws > 1 else 0.0
    return math.sqrt(((1 - share) * between + share * within) / points)


@measurement
def gaussian_quantities(
    mean: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    variance: float = ZERO_ENTROPY_VARIANCE,
    generator: torch.Generator,
    draws: int = 1,
    points: int | None = None,
    chunk: int | None = None,
) -> Estimate:
    r"""Estimate the quantities of Z = mean(X) + Gaussian noise, with X uniform over the given points.

    Z is a mixture of as many Gaussians as there are points, whose density is known: there are no
    neighbours, no bandwidth and no bias, only the error of a mean over draws, which is returned.

    Parameters
    ----------
    mean
        Latent of each point before noise is added, shape (points, width), float32 or float64.
    label
        Class of each point; X determines Y, so H[Y | X] is 0.
    variance
        Variance of the noise at each node, in squared latent units; by default its entropy is zero.
    generator, draws, points, chunk
        The options of :func:`~lpc.evaluation.posterior.posterior_entropies`: ``draws`` of z at each of
        ``points``.

    Raises
    ------
    ValueError
        As in :func:`~lpc.evaluation.posterior.posterior_entropies`.

    Notes
    -----
    With :math:`p(x_i|z) \propto e^{-\lVert z - \mu_i\rVert^2 / 2\sigma^2}` and
    :math:`p(y|z) = \sum_{i: y_i = y} p(x_i|z)`, the means over draws of the entropies of these two
    distributions estimate :math:`H[X|Z]` and :math:`H[Y|Z]`. The rest follows:
    :math:`I[X;Z] = \log N - H[X|Z]`, :math:`I[X;Z|Y] = \sum_c \frac{n_c}N \log n_c - H[X|Z] + H[Y|Z]`,
    :math:`H[Z|X] = \frac P2 \log 2\pi e\sigma^2` (exact), :math:`H[Z] = H[Z|X] + I[X;Z]`,
    :math:`H[Z|Y] = H[Z|X] + I[X;Z|Y]`, :math:`I[Y;Z] = H[Y] - H[Y|Z]`. So at every draw
    :math:`0 \le I[X;Z] \le \log N`, which is the ceiling for any latents of N points, and the error is
    that of :math:`-\log p(z)` averaged over draws, less what depends on the noise's length alone.

    With at least two draws per point, the standard error is that of sampling points out of all, then draws.
    With one, it is the sample sd over the square root of the number of points, as if the points had been
    drawn independently: too large (several times, at worst) where all points are taken and differ.

    References
    ----------
    Kirsch et al. 2020, Section 6.1 and Appendix A.8.
    """
    latent = as_points(mean, name="mean")
    count = group(as_labels(label, latent)).count.to(torch.float64)
    total, width = latent.shape
    of_point, of_label = posterior_entropies(
        mean, label, variance=variance, generator=generator, draws=draws, points=points, chunk=chunk
    )
    share = count / total
    within_class = float((share * count.log()).sum())
    quantities = _of_labelled_points(
        label_entropy=_entropy(share),
        encoding_uncertainty=0.5 * width * math.log(2 * math.pi * math.e * variance),
        decoder_uncertainty=float(of_label.mean()),
        preserved_information=math.log(total) - float(of_point.mean()),
        redundant_information=within_class - float((of_point - of_label).mean()),
    )
    entropies = (of_point, of_label, of_point - of_label)
    point_error, label_error, other_error = (_standard_error(value, total) for value in entropies)
    error = Quantities(
        label_entropy=0.0,
        encoding_entropy=point_error,
        label_uncertainty=0.0,
        encoding_uncertainty=0.0,
        decoder_uncertainty=label_error,
        reverse_decoder_uncertainty=other_error,
        relevant_information=0.0,
        preserved_information=point_error,
        preserved_relevant_information=label_error,
        residual_information=label_error,
        redundant_information=other_error,
    )
    return Estimate(quantities, error)
