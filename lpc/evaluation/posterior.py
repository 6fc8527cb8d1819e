"""Uncertainty about the point, and the class, from which a noisy latent came."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import Array, Groups, as_labels, as_points, centre, group, measuring_device
from lpc.computing.numerics import measurement
from lpc.computing.options import number, whole
from lpc.computing.threads import threads_for

_EXPANSION_ERROR = 1e-8  # of a logarithm of a probability, where squared distances are expanded
_NOISE_ERROR = 1e-6  # of a draw, in noise standard deviations
_MEMBERSHIP_ENTRIES = 1 << 23
_CHUNK, _CHUNK_BYTES = 64, 256 * 2**20  # on a CPU larger ones leave its cache; elsewhere they fill the device


class PosteriorEntropies(NamedTuple):
    """Conditional entropies in nats at each draw z.

    Attributes
    ----------
    point
        H[X | z], shape (draws, points).
    label
        H[Y | z], shape (draws, points).
    """

    point: Tensor
    label: Tensor


def _at_draws(
    draw: Float64[Tensor, "draws width"],
    centres: Float64[Tensor, "points width"],
    member: Float64[Tensor, "points classes"] | Groups,
    *,
    expand: bool,
) -> tuple[Float64[Tensor, " draws"], Float64[Tensor, " draws"]]:
    """Return H[X | z] and H[Y | z] at each draw z, for unit Gaussians about the centres."""
    with threads_for(draw.numel() * len(centres)):
        if expand:  # -|z - u|^2 / 2 without |z|^2, which all centres share
            weight = torch.addmm(-0.5 * centres.square().sum(dim=1), draw, centres.T)
        else:
            weight = torch.cdist(draw, centres, compute_mode="donot_use_mm_for_euclid_dist")
            weight.square_().mul_(-0.5)
    weight -= weight.amax(dim=1, keepdim=True)
    likelihood = weight.exp()
    total = likelihood.sum(dim=1)
    of_point = total.log() - torch.linalg.vecdot(likelihood, weight) / total
    if isinstance(member, Groups):
        sums = likelihood.new_zeros(len(draw), len(member.value))
        share = sums.scatter_add_(1, member.index.expand(len(draw), -1), likelihood)
    else:
        share = likelihood @ member
    of_label = torch.special.entr(share / total[:, None]).sum(dim=1)
    return of_point, of_label


def _membership(groups: Groups) -> Float64[Tensor, "points classes"] | Groups:
    """Return a one-hot matrix of the points' classes; the groups if it would take over 64 MiB."""
    points, classes = len(groups.index), len(groups.value)
    if points * classes > _MEMBERSHIP_ENTRIES:
        return groups
    zeros = torch.zeros(points, classes, dtype=torch.float64, device=groups.index.device)
    return zeros.scatter_(1, groups.index[:, None], 1.0)


def _in_noise_units(latent: Float64[Tensor, "points width"], variance: float) -> tuple[Tensor, bool]:
    """Return centred latents over the noise's sd, and whether their squared distances may be expanded."""
    number("variance", variance, above=0)
    centres = centre(latent) / math.sqrt(variance)
    reach, rounding = float(centres.norm(dim=1).max()), torch.finfo(torch.float64).eps
    if not reach * rounding < _NOISE_ERROR:
        raise ValueError(
            f"latents reach {reach:.1e} standard deviations of the noise from their mean; expected "
            f"{_NOISE_ERROR / rounding:.1e} or less: beyond, the noise is lost in float64's rounding"
        )
    return centres, reach**2 * rounding < _EXPANSION_ERROR


@measurement
def posterior_entropies(
    mean: Float[Array, "total width"],
    label: Integer[Array, " total"],
    *,
    variance: float,
    generator: torch.Generator,
    draws: int = 1,
    points: int | None = None,
    chunk: int | None = None,
) -> PosteriorEntropies:
    r"""Return H[X | z] and H[Y | z] in nats at draws of Z = mean(X) + Gaussian noise, X uniform over points.

    Parameters
    ----------
    mean
        Latent of each point before noise is added, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).
    variance
        Variance of the noise at each node, in squared latent units.
    generator
        Generator of the noise, which is drawn on its device: one on the CPU gives the same draws for latents
        on any device.
    draws
        Number of draws of z at each x.
    points
        Number of x, drawn without replacement, at which z is drawn; None: all. The mixture always contains
        all points.
    chunk
        Number of draws whose distances to all points are in memory at once; None: 64 on a CPU, elsewhere as
        many as fit in 256 MiB.

    Raises
    ------
    ValueError
        If the arrays are invalid, there is no generator, the variance is not positive and finite, draws,
        points or chunk are below 1, points are more than there are, or latents are so far apart that
        float64's rounding swallows the noise.

    Notes
    -----
    :math:`p(x_i|z) \propto e^{-\lVert z - \mu_i\rVert^2 / 2\sigma^2}` and
    :math:`p(y|z) = \sum_{i: y_i = y} p(x_i|z)`, in float64. Distances are expanded into products, of
    latents centred and in units of the noise's sd, as long as rounding moves no :math:`\log p(x|z)` by
    more than about 1e-8; differences are taken beyond.

    References
    ----------
    Kirsch et al. 2020, Appendix A.8.
    """
    latent = as_points(mean, name="mean")
    groups = group(as_labels(label, latent))
    total, width = latent.shape
    points = total if points is None else points
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"noise without a generator: {generator!r}; expected a torch.Generator")
    if measuring_device(generator.device) != generator.device:
        raise ValueError(f"generator is on {generator.device}, which has no float64; expected one on the CPU")
    draws, points = whole("draws", draws), whole("points", points, most=total)
    chunk = None if chunk is None else whole("chunk", chunk)
    centres, expand = _in_noise_units(latent, variance)
    drawn = torch.arange(total, device=latent.device)
    if points < total:
        drawn = torch.randperm(total, generator=generator, device=generator.device)[:points]
    drawn = drawn.to(latent.device)
    member = _membership(groups)
    if chunk is None:
        chunk = _CHUNK if latent.device.type == "cpu" else max(_CHUNK, _CHUNK_BYTES // (8 * total))
    result = PosteriorEntropies(latent.new_empty(draws, points), latent.new_empty(draws, points))
    for row in range(draws):
        shape, source = (points, width), generator.device
        noise = torch.randn(shape, generator=generator, device=source, dtype=torch.float64).to(latent.device)
        for first in range(0, points, chunk):
            at = slice(first, first + chunk)
            draw = centres[drawn[at]] + noise[at]
            result.point[row, at], result.label[row, at] = _at_draws(draw, centres, member, expand=expand)
    return result
