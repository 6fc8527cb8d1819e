"""Two-component Gaussian mixtures, fitted to every dimension of a set of points at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lpc.arrays import EPSILON, Array, ArrayT, as_points, centre, entries_at_once, like
from lpc.computing.numerics import measurement
from lpc.computing.options import number
from lpc.evaluation._searching.mixture_climb import Rows, at_floor, climb, settle

_BLOCK_ENTRIES = 1 << 21  # values climbed together: 16 MiB, and a few times that in all
_ON_A_GPU = 16  # times as many there, where launches are what costs
_COARSE, _TOLERANCE = 1e-10, 1e-16  # nats a point that the next step promises
_SINGLE, _RUNS, _ENDS = 512, 64, 64  # fewer points stay single; runs of groups; single points at the ends
_MARGIN, _SAME = 0.02, 1e-8  # nats a point below the best coarse top: still climbed in full; one and the same
_SMALLEST_SHARE = 0.01
_FLOOR = 0.3  # of the sd of a dimension: the smallest of a component where outliers took every start
_WORST = -1e300  # better than nothing, worse than any likelihood


class Bimodal(NamedTuple):
    """Two-component Gaussian mixture of each dimension, components in ascending order of their means.

    Attributes
    ----------
    weight, mean, sd
        Parameters of the components, shape (width, 2), in the latents' units. A component that has collapsed
        to one value has sd 0.
    log_likelihood
        Mean over points of the log density of the mixture in nats, shape (width,); infinite where degenerate.
    converged
        Whether each fit has converged, shape (width,): the next step promised less than 1e-16 nats per point;
        with ``reg_covar``, the residual of the fixed-point equations times Newton's next step is below 1e-20.
        True where degenerate.
    degenerate
        Whether the likelihood of each dimension has no maximum because a component shrank to one repeated
        value, shape (width,). An outlier on a single point, or on fewer than 1 % of the points, does not
        count.
    dropped_starts
        Number of the three starts that ran into fewer than max(2, 1 %) points and were left out, shape
        (width,). If all three did, sds have a floor, see :func:`fit_bimodal`.
    """

    weight: Array
    mean: Array
    sd: Array
    log_likelihood: Array
    converged: Array
    degenerate: Array
    dropped_starts: Array


@measurement
def fit_bimodal(latent: Float[ArrayT, "points width"], *, reg_covar: float = 0.0) -> Bimodal:
    r"""Fit a mixture of two Gaussians to each dimension by maximum likelihood.

    Parameters
    ----------
    latent
        Latents, shape (points, width), float32 or float64; at least two points.
    reg_covar
        Constant added to the variances after every step, in squared units of the latents, as in scikit-learn.
        Above 0, no dimension is degenerate, no start is dropped, and no sd is below its root.

    Returns
    -------
    Bimodal
        The fitted mixtures, in the same kind of arrays as ``latent``.

    Raises
    ------
    ValueError
        If the array is invalid, there are fewer than two points, or ``reg_covar`` is negative or not finite.

    Notes
    -----
    Deterministic, and to rounding the same for a dimension alone as among others. Each dimension is centred
    and divided by its sd. Three starts: the split with the least squares within (2-means), the split at the
    median, and the inner against the outer half. From each the likelihood is climbed on a few hundred groups
    of neighbouring points (on the points where they are few), and from the best on all points, with
    expectation-maximisation where its steps are long and with Newton's method where they are short, so that
    the likelihood never falls. A start that ended within 0.02 nats per point is climbed, too. A
    mixture has many local maxima where it does not fit the data; the one reported is the highest that these
    starts lead to.

    The likelihood is unbounded where a component shrinks to one value. If it holds max(2, 1 % of the
    points) or more, the dimension is reported as degenerate: that value repeats. If it holds fewer, it is
    an outlier, and that start is dropped. Where outliers take all three starts (1 to 2 % of Gaussian
    dimensions of some hundred points), the dimension is fitted as with a ``reg_covar`` of 0.09 times its
    variance: no sd is then below 0.3 of the dimension's, and no outlier is worth a component of its own.

    With ``reg_covar`` the steps no longer climb the likelihood. What is reported is their fixed point, where
    each variance is the weighted mean square about its mean plus ``reg_covar``, sought from where
    the likelihood of points with that much variance within is highest.

    References
    ----------
    LPC 2024, Appendix D; Dempster, Laird and Rubin 1977, J. R. Stat. Soc. B 39 (the steps); Louis 1982,
    J. R. Stat. Soc. B 44 (the second derivatives).
    """
    points = as_points(latent)
    if points.shape[0] < 2:
        raise ValueError(f"latent has {points.shape[0]} point; a mixture of two needs 2 or more")
    reg_covar = number("reg_covar", reg_covar, least=0)
    entries = _BLOCK_ENTRIES * (1 if points.device.type == "cpu" else _ON_A_GPU)
    columns = max(1, entries // points.shape[0])
    parts = [_fitted(block, reg_covar) for block in points.split(columns, dim=1)]
    return Bimodal(*(like(torch.cat(field), latent) for field in zip(*parts, strict=True)))


def _fitted(points: Float64[Tensor, "points width"], reg_covar: float) -> tuple[Tensor, ...]:
    """Return the fields of the fit, with a floor in dimensions where outliers took every start."""
    *fields, lost = _fit_block(points, reg_covar)
    some = lost.nonzero()[:, 0]
    if len(some):
        location, scale = points[:, some].mean(dim=0), points[:, some].std(dim=0, correction=0)
        weight, mean, sd, height, converged, _, _, _ = _fit_block(
            (points[:, some] - location) / scale, _FLOOR**2
        )
        mean, sd = mean * scale[:, None] + location[:, None], sd * scale[:, None]
        for field, value in zip(fields, (weight, mean, sd, height - scale.log(), converged), strict=False):
            field[some] = value
        fields[Bimodal._fields.index("degenerate")][some] = False
    return tuple(fields)


class _Prepared(NamedTuple):
    """Dimensions as rows: sorted, centred, divided by their sd; in groups; and where to start from."""

    location: Tensor
    scale: Tensor
    floor: Tensor
    added: Tensor
    x: Tensor
    mean: Tensor
    within: Tensor
    share: Tensor
    starts: Tensor


def _prepared(points: Float64[Tensor, "points width"], reg_covar: float) -> _Prepared:
    points = points.T.contiguous().T  # sums run along contiguous rows
    location = points.mean(dim=0)
    location = location + (points - location).mean(dim=0)
    x = _ascending(centre(points).T)
    rounding = 8 * EPSILON * points.abs().amax(dim=0)
    constant = x.abs().amax(dim=1) <= rounding
    scale = torch.where(constant, 1.0, x.square().mean(dim=1).sqrt())
    x = torch.where(constant[:, None], 0.0, x / scale[:, None])
    floor = (rounding / scale).clamp(min=8 * EPSILON)
    if reg_covar > 0:  # below every sd that occurs
        floor = torch.minimum(floor, 0.5 * math.sqrt(reg_covar) / scale).clamp(min=1e-100)
    mean, within, share = _grouped(x)
    added = reg_covar / scale.square()
    within = within + added[:, None]
    begun = _starts(x, mean, within, share, floor)
    return _Prepared(location, scale, floor, added, x, mean, within, share, begun)


def _fit_block(points: Float64[Tensor, "points width"], reg_covar: float) -> tuple[Tensor, ...]:
    """Return the fields of the fit, and the dimensions in which outliers took every start."""
    total, width = points.shape
    size = max(1, entries_at_once(points.device) // total)
    chunks = [_prepared(chunk, reg_covar) for chunk in points.split(size, dim=1)]
    block = _Prepared(*(torch.cat(field) for field in zip(*chunks, strict=True)))
    groups = Rows(block.mean, block.within, block.share, block.floor)
    index = torch.arange(width, device=points.device)
    count = block.starts.shape[1]
    dead = math.log(total / 1e-6)
    theta, height, _ = climb(
        groups, index.repeat_interleave(count), block.starts.flatten(0, 1), tolerance=_COARSE, dead=dead
    )

    def ranked(index: Tensor, theta: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        """Return the height that compares mixtures, and where a component has nothing but an outlier."""
        if reg_covar > 0:
            return height, torch.zeros_like(height, dtype=torch.bool)
        flat, spurious = _collapsed(block.floor[index], theta, total)
        height = torch.where(flat, math.inf, height)
        return torch.where(spurious, _WORST, height), spurious

    height, spurious = ranked(index.repeat_interleave(count), theta, height)
    dropped = spurious.view(width, count).sum(dim=1)
    height, order = height.view(width, count).sort(dim=1, descending=True, stable=True)
    theta = theta.view(width, count, 5).gather(1, order[:, :, None].expand(-1, -1, 5))

    rows = Rows(block.x, block.added[:, None] if reg_covar > 0 else None, None, block.floor)
    margin = _MARGIN + (0.5 if reg_covar > 0 else 0.0)  # by how much variance within groups lowers a height
    best = torch.full_like(block.scale, -math.inf)
    result, converged = theta[:, 0].clone(), torch.zeros_like(best, dtype=torch.bool)
    for k in range(count):
        rival = height[:, k] >= height[:, 0] - margin
        if k > 0:
            rival &= height[:, k - 1] - height[:, k] > _SAME
        some = (rival | (best <= _WORST)).nonzero()[:, 0]
        if some.numel() == 0:
            continue
        found, reached, done = climb(rows, some, theta[some, k], tolerance=_TOLERANCE, dead=dead)
        if reg_covar > 0:
            found, reached, done = settle(rows._replace(within=None), some, found, block.added)
        reached, spurious = ranked(some, found, reached)
        dropped[some] += spurious & (height[some, k] > _WORST)
        better = (reached > best[some]).nonzero()[:, 0]
        where = some[better]
        result[where], best[where], converged[where] = found[better], reached[better], done[better]

    weight = torch.stack([torch.sigmoid(-result[:, 0]), torch.sigmoid(result[:, 0])], dim=1)
    mean, sd = result[:, 1:3], result[:, 3:].exp()
    if reg_covar == 0:
        sd = torch.where(at_floor(block.floor, result), 0.0, sd)
    degenerate, lost = (sd == 0).any(dim=1), best <= _WORST
    height_of = torch.where(degenerate, math.inf, best - block.scale.log())
    order = mean.argsort(dim=1, stable=True)
    mean, sd, weight = (value.gather(1, order) for value in (mean, sd, weight))
    mean = mean * block.scale[:, None] + block.location[:, None]
    sd = sd * block.scale[:, None]
    return weight, mean, sd, height_of, converged | degenerate, degenerate, dropped, lost


def _ascending(x: Float64[Tensor, "width points"]) -> Float64[Tensor, "width points"]:
    """Return each row sorted; on a CPU by numpy, which takes a thirtieth of the time of torch."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=1))
    return x.sort(dim=1).values


def _grouped(x: Float64[Tensor, "width points"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance within and share of the points of a few hundred groups of neighbours.

    Runs of equally many points, each split at its largest gap, so that no group spans two spikes. The ends,
    where outliers are, stay single points; so do all points where they are few. ``x`` is sorted.
    """
    width, total = x.shape
    if total <= _SINGLE:
        return x, torch.zeros_like(x), torch.full_like(x, 1 / total)
    size = (total - _ENDS) // _RUNS
    low = (total - size * _RUNS) // 2
    high = low + size * _RUNS
    run = x[:, low:high].reshape(width, _RUNS, size)
    origin = run[:, :, :1]
    rank = torch.arange(size, device=x.device)
    upper = (rank > run.diff(dim=2).argmax(dim=2, keepdim=True)).to(x.dtype)
    count1, count2 = (member.sum(dim=2) for member in (1 - upper, upper))
    mean1 = ((run - origin) * (1 - upper)).sum(dim=2) / count1
    mean2 = ((run - origin) * upper).sum(dim=2) / count2
    away = (run - origin - torch.where(upper > 0, mean2[:, :, None], mean1[:, :, None])).square()
    within1 = (away * (1 - upper)).sum(dim=2) / count1
    within2 = (away * upper).sum(dim=2) / count2

    def joined(end: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([end[:, :low], torch.stack([first, second], dim=2).flatten(1), end[:, high:]], dim=1)

    start = origin[:, :, 0]
    return (
        joined(x, start + mean1, start + mean2),
        joined(torch.zeros_like(x), within1, within2),
        joined(torch.full_like(x, 1 / total), count1 / total, count2 / total),
    )


def _starts(
    x: Float64[Tensor, "width points"],
    mean: Float64[Tensor, "width groups"],
    within: Float64[Tensor, "width groups"],
    share: Float64[Tensor, "width groups"],
    floor: Float64[Tensor, " width"],
) -> Float64[Tensor, "width 3 5"]:
    """Return the parameters that fit three splits: 2-means, the median, and inner against outer half."""
    total = x.shape[1]
    below, lower = share.cumsum(dim=1), (share * mean).cumsum(dim=1)
    whole = lower[:, -1:]
    between = (lower - whole * below).square()[:, :-1] / (below * (1 - below))[:, :-1]
    rank = torch.arange(mean.shape[1], device=x.device)
    middle, half = x[:, total // 2, None], (total + 1) // 2
    reach = torch.maximum(middle - x[:, : total - half + 1], x[:, half - 1 :] - middle).amin(dim=1)
    splits = [
        rank <= between.argmax(dim=1, keepdim=True),
        below <= (total // 2 + 0.5) / total,
        (mean - middle).abs() <= reach[:, None],
    ]
    starts = []
    for split in splits:
        logit, means, log_sds = [], [], []
        for member in (split, ~split):
            part = member * share
            count = part.sum(dim=1).clamp(min=1e-12)
            average = (part * mean).sum(dim=1) / count
            variance = (part * ((mean - average[:, None]).square() + within)).sum(dim=1) / count
            logit.append(count.log())
            means.append(average)
            log_sds.append(torch.maximum(variance.sqrt(), floor).log())
        starts.append(torch.stack([logit[1] - logit[0], *means, *log_sds], dim=1))
    return torch.stack(starts, dim=1)


def _collapsed(floor: Tensor, theta: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return where a component has shrunk to one value, and where it then holds too few points to count."""
    flat = at_floor(floor, theta)
    share = torch.stack([torch.sigmoid(-theta[:, 0]), torch.sigmoid(theta[:, 0])], dim=1)
    enough = share * total >= max(2.0, _SMALLEST_SHARE * total) - 1e-6
    return flat.any(dim=1), flat.any(dim=1) & ~(flat & enough).any(dim=1)
