"""Errors of nearest-neighbour entropies on known mixtures that resemble given latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import EPSILON, Array, as_labels, as_points, group, group_means
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy
from lpc.evaluation.neighbours import Norm

DRAWS = 8
"""Number of draws per point from which the mixture's entropy is computed."""


class Gaussians(NamedTuple):
    r"""One Gaussian per class, with the class's mean, covariance and share of the points.

    Attributes
    ----------
    mean
        Means in latent units.
    sd
        Standard deviations along the principal axes, in latent units: roots of the eigenvalues of the
        unbiased covariance.
    axis
        Principal axes, one per row.
    count
        Number of points of each class.
    value
        Labels of the classes.
    """

    mean: Float64[Tensor, "classes width"]
    sd: Float64[Tensor, "classes width"]
    axis: Float64[Tensor, "classes width width"]
    count: Int64[Tensor, " classes"]
    value: Int64[Tensor, " classes"]


class Matched(NamedTuple):
    """Points of a mixture whose entropies are known, in nats.

    Attributes
    ----------
    sample, label
        Points and labels, as many per class as in the given data.
    encoding_entropy
        Entropy H[Z] of the mixture, and the standard error of its Monte Carlo mean.
    reverse_decoder_uncertainty
        Entropy H[Z | Y] in closed form.
    """

    sample: Float64[Tensor, "points width"]
    label: Int64[Tensor, " points"]
    encoding_entropy: float
    encoding_entropy_error: float
    reverse_decoder_uncertainty: float


class Error(NamedTuple):
    """A known entropy, and the error of its estimate, in nats.

    Attributes
    ----------
    truth
        Known entropy.
    bias
        Mean over repeats of the estimate minus the truth.
    standard_error
        Standard error of the bias: from its spread over repeats, and the truth's own.
    """

    truth: float
    bias: float
    standard_error: float


class Bias(NamedTuple):
    """Errors of nearest-neighbour entropies with the number of points and the width of given latents.

    Attributes
    ----------
    encoding_entropy
        Error of ``knn_entropy`` on the matched mixture.
    reverse_decoder_uncertainty
        Error of ``conditional_knn_entropy`` on the matched mixture.
    isotropic
        Error of ``knn_entropy`` on one isotropic Gaussian with the latents' total variance: the easy case, in
        which the estimate looks better than it is.
    """

    encoding_entropy: Error
    reverse_decoder_uncertainty: Error
    isotropic: Error


def class_gaussians(latent: Float[Array, "points width"], label: Integer[Array, " points"]) -> Gaussians:
    """Return the Gaussian of every class: its mean and its unbiased covariance, with the full spectrum.

    Raises
    ------
    ValueError
        If the arrays are invalid, or the points of a class span fewer dimensions than there are nodes (a
        single point, too few points, nodes that are constant or copies of others, spread lost in float64's
        rounding), so that its Gaussian has the entropy minus infinity.
    """
    points = as_points(latent)
    groups = group(as_labels(label, points))
    width = points.shape[1]
    mean = group_means(points, groups)
    rounding = EPSILON * float(points.abs().max())
    sd, axis = torch.zeros_like(mean), mean.new_zeros(len(mean), width, width)
    for position, value in enumerate(groups.value.tolist()):
        own = points[groups.index == position] - mean[position]
        _, singular, axes = torch.linalg.svd(own, full_matrices=False)
        spanned = int((singular > max(own.shape) * rounding).sum())
        if min(spanned, len(own) - 1) < width:
            raise ValueError(
                f"class {value} has {len(own)} points that span {min(spanned, len(own) - 1)} of "
                f"{width} dimensions: the entropy of its Gaussian is minus infinity"
            )
        sd[position], axis[position] = singular / math.sqrt(len(own) - 1), axes
    return Gaussians(mean, sd, axis, groups.count, groups.value)


def _draw(gaussians: Gaussians, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return one draw for every point, class by class, and the positions of their classes."""
    index = torch.arange(len(gaussians.count)).repeat_interleave(gaussians.count)
    width = gaussians.mean.shape[1]
    normal = torch.randn(len(index), width, generator=generator, dtype=torch.float64)
    root = gaussians.axis.mT @ (
        gaussians.sd[:, :, None] * gaussians.axis
    )  # symmetric, because the signs of axes are arbitrary
    return gaussians.mean[index] + torch.einsum("np,npr->nr", normal, root[index]), index


def _label_uncertainty(
    gaussians: Gaussians, draw: Float64[Tensor, "draws width"]
) -> Float64[Tensor, " draws"]:
    """Return H[Y | z] in nats at each draw z."""
    log_joint = []
    for mean, sd, axis, count in zip(*gaussians[:4], strict=True):
        normal = (draw - mean) @ axis.T / sd
        log_joint.append(math.log(int(count)) - sd.log().sum() - 0.5 * normal.square().sum(dim=1))
    return torch.special.entr(torch.stack(log_joint, dim=1).softmax(dim=1)).sum(dim=1)


def matched_mixture(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    generator: torch.Generator,
    draws: int = DRAWS,
) -> Matched:
    r"""Draw a sample of a Gaussian mixture that resembles the latents; return it with its entropies.

    Parameters
    ----------
    latent, label
        Latents and the class of each. They must already contain the noise.
    generator
        Generator of the sample and of the Monte Carlo mean, on the CPU.
    draws
        Number of draws per point from which H[Z] is computed, at least 2.

    Raises
    ------
    ValueError
        If :func:`class_gaussians` raises one, or ``draws`` is below 2.

    Notes
    -----
    The mixture has one Gaussian per class (:func:`class_gaussians`), weighted by its share :math:`n_c/N`. In
    nats, :math:`H[Z|Y] = \sum_c \frac{n_c}{N}\sum_i \frac12\ln 2\pi e\lambda_{ci}`, with the eigenvalues
    :math:`\lambda_{ci}` of the class's covariance, and :math:`H[Z] = H[Z|Y] + H[Y] - H[Y|Z]`, of which only
    :math:`H[Y|Z]`, between 0 and :math:`H[Y]`, is a Monte Carlo mean: of the entropy of the exact
    :math:`p(y|z)`. Every class has its number of points in the sample and in every round of draws; the
    standard error is that of the means within classes.
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; expected 2 or more, for a standard error")
    return _sampled(class_gaussians(latent, label), generator, draws)


def _sampled(gaussians: Gaussians, generator: torch.Generator, draws: int) -> Matched:
    width = gaussians.mean.shape[1]
    share = gaussians.count.to(torch.float64) / gaussians.count.sum()
    within = gaussians.sd.log().sum(dim=1) + 0.5 * width * math.log(2 * math.pi * math.e)
    reverse = float((share * within).sum())
    sample, index = _draw(gaussians, generator)
    rounds = [_label_uncertainty(gaussians, _draw(gaussians, generator)[0]) for _ in range(draws)]
    uncertainty = torch.stack(rounds)
    variance = torch.stack([uncertainty[:, index == c].var() for c in range(len(share))])
    error = (share.square() * variance / (draws * gaussians.count)).sum().sqrt()
    return Matched(
        sample=sample,
        label=gaussians.value[index],
        encoding_entropy=reverse + float(torch.special.entr(share).sum()) - float(uncertainty.mean()),
        encoding_entropy_error=float(error),
        reverse_decoder_uncertainty=reverse,
    )


def _isotropic(
    latent: Float64[Tensor, "points width"], generator: torch.Generator
) -> tuple[Float64[Tensor, "points width"], float]:
    """Return a sample of one isotropic Gaussian with the latents' total variance, and its entropy."""
    total, width = latent.shape
    variance = float(latent.var(dim=0).mean())
    normal = torch.randn(total, width, generator=generator, dtype=torch.float64)
    return math.sqrt(variance) * normal, 0.5 * width * math.log(2 * math.pi * math.e * variance)


def _error(truth: float, estimates: Sequence[float], truth_error: float = 0.0) -> Error:
    found = torch.tensor(estimates, dtype=torch.float64)
    spread = float(found.std()) / math.sqrt(len(found))
    return Error(truth, float(found.mean()) - truth, math.hypot(spread, truth_error))


def bias(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    k: int,
    norm: Norm = "l2",
    repeats: int = 4,
    generator: torch.Generator,
) -> Bias:
    """Return the errors of nearest-neighbour entropies on mixtures that resemble the latents, in nats.

    Parameters
    ----------
    latent, label
        Latents and the class of each, as the estimator would get them, including their noise.
    k, norm
        Options of :func:`lpc.evaluation.information.knn_entropy` and of the conditional estimate.
    repeats
        Number of samples of the mixture, each with as many points as there are latents; at least 2.
    generator
        Generator of all samples, on the CPU.

    Raises
    ------
    ValueError
        If :func:`matched_mixture` or an estimator raises one, or ``repeats`` is below 2.
    """
    if repeats < 2:
        raise ValueError(f"repeats is {repeats}; expected 2 or more, for a standard error")
    points = as_points(latent)
    gaussians = class_gaussians(points, label)
    found = [_sampled(gaussians, generator, DRAWS) for _ in range(repeats)]
    truth = _mean([one.encoding_entropy for one in found])
    truth_error = math.sqrt(sum(one.encoding_entropy_error**2 for one in found)) / repeats
    rounds = [_isotropic(points, generator) for _ in range(repeats)]
    return Bias(
        encoding_entropy=_error(
            truth, [knn_entropy(one.sample, k=k, norm=norm) for one in found], truth_error
        ),
        reverse_decoder_uncertainty=_error(
            found[0].reverse_decoder_uncertainty,
            [conditional_knn_entropy(one.sample, one.label, k=k, norm=norm) for one in found],
        ),
        isotropic=_error(rounds[0][1], [knn_entropy(sample, k=k, norm=norm) for sample, _ in rounds]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
