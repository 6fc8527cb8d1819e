"""Two-component Gaussian mixtures, fitted to every dimension of a set of points at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lpc.arrays import EPSILON, Array, ArrayT, as_points, centre, like

_LOG_2PI = math.log(2 * math.pi)
_BLOCK_ENTRIES = 1 << 20  # values climbed together, so that the temporaries stay within tens of MiB
_COARSE, _TOLERANCE = 1e-7, 1e-10  # nats a point, gained by a cycle of three steps
_AT_FLOOR = 1e-6  # how near the smallest log sd counts as there
_CYCLES = 1000
_LONGEST_STRIDE = 64.0
_LARGEST_SHRINKAGE = 1.0  # of a log sd, beyond what two plain steps did
_SMALLEST_SHARE = 0.01


class Bimodal(NamedTuple):
    """Two-component Gaussian mixture of each dimension, components in ascending order of their means.

    Attributes
    ----------
    weight, mean, sd
        Shape (width, 2), in the latents' units. A component that has collapsed to one value has sd 0.
    log_likelihood
        Shape (width,): mean over points of the log density of the mixture, in nats; infinity where
        degenerate.
    converged
        Shape (width,): the last cycle gained less than 1e-10 nats a point. True where degenerate.
    degenerate
        Shape (width,): the likelihood has no maximum, because a component shrank to one repeated value.
    dropped_starts
        Shape (width,): how many of the three starts ran into fewer than max(2, 1 %) points and were left
        out.
    """

    weight: Array
    mean: Array
    sd: Array
    log_likelihood: Array
    converged: Array
    degenerate: Array
    dropped_starts: Array


def fit_bimodal(latent: Float[ArrayT, "points width"]) -> Bimodal:
    r"""Fit a mixture of two Gaussians to each dimension by maximum likelihood.

    Parameters
    ----------
    latent
        float32 or float64, two or more points.

    Returns
    -------
    Bimodal
        Arrays of the same kind as ``latent``.

    Raises
    ------
    ValueError
        Invalid array, or fewer than two points.

    Notes
    -----
    Expectation-maximisation on each dimension after centring and dividing by its sd, extrapolated
    (squared iterative method) wherever that does not lower the likelihood, so that the likelihood never
    falls from cycle to cycle. Nothing is added to a variance. Deterministic; the best of three starts is
    kept: the split with the least squares within (2-means, exact), the split at the median, and the
    inner against the outer half. A mixture has many local maxima where it does not fit the data; the one
    reported is the highest that these starts lead to.

    The likelihood is unbounded where a component shrinks to one value. If it holds max(2, 1 % of the
    points) or more, the dimension is reported as degenerate. If it holds fewer (an outlier), that start
    is dropped, and the dimension is degenerate only where no start is left.

    References
    ----------
    LPC 2024, Appendix D; Varadhan and Roland 2008, Scand. J. Statist. 35 (the extrapolation).
    """
    points = as_points(latent)
    if points.shape[0] < 2:
        raise ValueError(f"latent has {points.shape[0]} point; a mixture of two needs 2 or more")
    columns = max(1, _BLOCK_ENTRIES // points.shape[0])
    parts = [_fit_block(block) for block in points.split(columns, dim=1)]
    return Bimodal(*(like(torch.cat(field), latent) for field in zip(*parts, strict=True)))


def _fit_block(points: Float64[Tensor, "points width"]) -> tuple[Tensor, ...]:
    total, width = points.shape
    location = points.mean(dim=0)
    location = location + (points - location).mean(dim=0)
    x = centre(points).T.contiguous().sort(dim=1).values
    rounding = 8 * EPSILON * points.abs().amax(dim=0)
    constant = x.abs().amax(dim=1) <= rounding
    scale = torch.where(constant, 1.0, x.square().mean(dim=1).sqrt())
    x = torch.where(constant[:, None], 0.0, x / scale[:, None])
    floor = (rounding / scale).clamp(min=8 * EPSILON)

    best = torch.full((width,), -math.inf, dtype=torch.float64, device=x.device)
    theta = torch.zeros((5, width), dtype=torch.float64, device=x.device)
    dropped = torch.zeros(width, dtype=torch.int64, device=x.device)
    for member in _starts(x):
        found, likelihood, _ = _climb(x, _maximise(x, member, 1 - member, floor), floor, _COARSE)
        flat, spurious = _collapsed(found, floor, total)
        dropped += spurious
        likelihood = torch.where(flat, math.inf, likelihood)
        likelihood = torch.where(spurious, -1e300, likelihood)  # better than nothing, worse than any other
        better = likelihood > best
        best = torch.where(better, likelihood, best)
        theta = torch.where(better, found, theta)
    found, likelihood, converged = _climb(x, theta, floor, _TOLERANCE)
    spurious = _collapsed(found, floor, total)[1]
    converged &= ~spurious
    theta, best = torch.where(spurious, theta, found), torch.where(spurious, best, likelihood)

    weight = torch.stack([torch.sigmoid(-theta[0]), torch.sigmoid(theta[0])], dim=1)
    mean, sd = theta[1:3].T, theta[3:].T.exp()
    sd = torch.where(sd <= floor[:, None] * (1 + _AT_FLOOR), 0.0, sd)
    degenerate = (sd == 0).any(dim=1)
    best = torch.where(degenerate, math.inf, best - scale.log())
    order = mean.argsort(dim=1, stable=True)
    mean, sd, weight = (value.gather(1, order) for value in (mean, sd, weight))
    mean = mean * scale[:, None] + location[:, None]
    return weight, mean, sd * scale[:, None], best, converged | degenerate, degenerate, dropped


def _collapsed(theta: Tensor, floor: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return where a component has shrunk to one value, and where it then holds too few points to count."""
    flat = theta[3:] <= floor.log() + _AT_FLOOR
    share = torch.stack([torch.sigmoid(-theta[0]), torch.sigmoid(theta[0])])
    enough = share * total >= max(2.0, _SMALLEST_SHARE * total) - 1e-6
    return flat.any(dim=0), flat.any(dim=0) & ~(flat & enough).any(dim=0)


def _starts(x: Float64[Tensor, "width points"]) -> list[Float64[Tensor, "width points"]]:
    """Return hard memberships of the first component; ``x`` is sorted along the points."""
    total = x.shape[1]
    position = torch.arange(1, total, device=x.device)  # the size of the lower part
    lower = x.cumsum(dim=1)[:, :-1]
    between = lower.square() / position + (x.sum(dim=1, keepdim=True) - lower).square() / (total - position)
    rank = torch.arange(total, device=x.device)
    starts = [
        (rank <= between.argmax(dim=1, keepdim=True)),
        (rank < total // 2).expand_as(x),
    ]
    distance = (x - x[:, total // 2, None]).abs()
    starts.append(distance <= distance.kthvalue((total + 1) // 2, dim=1, keepdim=True).values)
    return [member.to(torch.float64) for member in starts]


def _maximise(x: Tensor, first: Tensor, second: Tensor, floor: Tensor) -> Float64[Tensor, "5 width"]:
    """Return logit of the second weight, two means and two log sds that fit the memberships."""
    parts = []
    for member in (first, second):
        count = member.sum(dim=1).clamp(min=1e-12)
        mean = (member * x).sum(dim=1) / count
        variance = (member * (x - mean[:, None]).square()).sum(dim=1) / count
        parts.append((count, mean, torch.maximum(variance.sqrt(), floor).log()))
    (count1, mean1, log_sd1), (count2, mean2, log_sd2) = parts
    return torch.stack([(count2 / count1).log(), mean1, mean2, log_sd1, log_sd2])


def log_densities(
    x: Float64[Tensor, "width points"], theta: Float64[Tensor, "5 width"]
) -> Float64[Tensor, "2 width points"]:
    """Return the log of weight times density of each component at each point."""
    logit, mean1, mean2, log_sd1, log_sd2 = theta[:, :, None]
    first = torch.nn.functional.logsigmoid(-logit) - log_sd1 - 0.5 * ((x - mean1) / log_sd1.exp()).square()
    second = torch.nn.functional.logsigmoid(logit) - log_sd2 - 0.5 * ((x - mean2) / log_sd2.exp()).square()
    return torch.stack([first, second]) - 0.5 * _LOG_2PI


def _step(x: Tensor, theta: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean log-likelihood at ``theta`` and the parameters after one step from there."""
    first, second = log_densities(x, theta)
    # One exponential serves both memberships and the likelihood, and cannot overflow.
    smaller = torch.exp(-(second - first).abs())
    larger_share = 1 / (1 + smaller)
    smaller_share = smaller * larger_share
    likelihood = (torch.maximum(first, second) + smaller.log1p()).mean(dim=1)
    ahead = second > first
    member1 = torch.where(ahead, smaller_share, larger_share)
    member2 = torch.where(ahead, larger_share, smaller_share)
    return likelihood, _maximise(x, member1, member2, floor)


def _climb(
    x: Float64[Tensor, "width points"],
    theta: Float64[Tensor, "5 width"],
    floor: Float64[Tensor, " width"],
    tolerance: float,
) -> tuple[Float64[Tensor, "5 width"], Float64[Tensor, " width"], Bool[Tensor, " width"]]:
    """Return the parameters at the top of the likelihood, the likelihood, and whether it converged."""
    width, total = x.shape
    result, converged = theta.clone(), torch.zeros(width, dtype=torch.bool, device=x.device)
    reached = torch.full((width,), -math.inf, dtype=torch.float64, device=x.device)
    active: Int64[Tensor, " active"] = torch.arange(width, device=x.device)
    dead = math.log(total / 1e-6)
    for _ in range(_CYCLES):
        start = result[:, active]
        likelihood, one = _step(x, start, floor)
        stop = likelihood - reached[active] < tolerance
        stop |= (start[3:] <= floor.log() + _AT_FLOOR).any(dim=0)
        reached[active], converged[active] = likelihood, stop
        _, two = _step(x, one, floor)
        forward, bend = one - start, two - 2 * one + start
        length = bend.norm(dim=0)
        stride = torch.where(length > 0, forward.norm(dim=0) / length, 1.0).clamp(1.0, _LONGEST_STRIDE)
        leap = start + 2 * stride * forward + stride.square() * bend
        leap[3:] = torch.maximum(leap[3:], two[3:] - _LARGEST_SHRINKAGE)  # no leaping into a singularity
        height, three = _step(x, leap, floor)
        after = torch.where(height >= likelihood, three, two)
        stop |= (after[0].abs() > dead) | ~torch.isfinite(after).all(dim=0)
        result[:, active] = torch.where(stop, start, after)
        keep = ~stop
        if not bool(keep.all()):
            active, x, floor = active[keep], x[keep], floor[keep]
        if active.numel() == 0:
            break
    return result, reached, converged
