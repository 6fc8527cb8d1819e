"""The likelihood of many two-component mixtures with its derivatives, and its maximisation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from lpc.arrays import EPSILON, entries_at_once

_LOG_2PI = math.log(2 * math.pi)
_PASSES = 500
_AT_FLOOR = 1e-6  # how near the smallest log sd counts as there
_FAR = 0.1  # steps of expectation-maximisation longer than this, in sds, are taken as they are
_LONGEST = (2.0, 2.0, 2.0, 1.0, 1.0)  # Newton step: logit, means in sds, log sds
_FLATTEST = 1e-10  # principal curvatures below count as this
_EMPTY = 1e-300
_NEAREST_SD = 1e-8  # relative rounding of an sd that is the root of a difference of squares
_SETTLED = 1e-10  # sds


class Rows(NamedTuple):
    """One-dimensional sets of points, or of groups of neighbouring points, one set per row.

    Attributes
    ----------
    x
        Mean of each group, shape (rows, groups).
    within
        Variance within each group, same shape or (rows, 1); None: every group is one point.
    share
        Share of the points in each group, same shape; None: every group is one point.
    floor
        Smallest sd of a component, shape (rows,).
    """

    x: Tensor
    within: Tensor | None
    share: Tensor | None
    floor: Tensor


class Survey(NamedTuple):
    """Result of one pass over the points for mixtures with given parameters.

    Attributes
    ----------
    likelihood
        Mean log density in nats per point, shape (mixtures,).
    update
        Parameters after a step of expectation-maximisation, shape (mixtures, 5).
    slope
        First derivatives of the likelihood by logit, by means in sds of their component, and by log sds,
        shape (mixtures, 5).
    curvature
        Minus the second derivatives by the same variables, shape (mixtures, 5, 5).
    known
        Diagonal that the curvature would have if the memberships were known, shape (mixtures, 5).
    """

    likelihood: Tensor
    update: Tensor
    slope: Tensor
    curvature: Tensor
    known: Tensor


def survey(
    rows: Rows,
    index: Int64[Tensor, " mixtures"],
    theta: Float64[Tensor, "mixtures 5"],
    added: Float64[Tensor, " rows"] | None = None,
) -> Survey:
    r"""Return likelihood, step and derivatives of mixtures of the rows that ``index`` names.

    Notes
    -----
    ``theta``: the logit of the second weight, the two means, the two log sds.

    With memberships :math:`r_k`, :math:`\Delta` the derivatives of the log odds and C the curvature under
    known memberships, the curvature is :math:`C - \langle r_1 r_2 \Delta \Delta^T\rangle`. A group with
    variance v within counts as points that share one membership,
    :math:`\log\sum_k w_k \mathcal N(x|m_k, s_k^2) e^{-v/2s_k^2}` each, a lower bound of their likelihood.

    Where ``added`` is given, it is added to the variances by the step; slope and curvature are then those of
    the equations that the step leaves as they are, and the curvature is not symmetric.
    """
    sd = theta[:, 3:].exp()
    log_weight = torch.nn.functional.logsigmoid(torch.stack([-theta[:, 0], theta[:, 0]], dim=1))
    height = log_weight - theta[:, 3:] - 0.5 * _LOG_2PI
    size = max(1, entries_at_once(theta.device) // rows.x.shape[1])
    chunks = (value.split(size) for value in (index, theta[:, 1:3], sd, height))
    sums = torch.cat([_sums(rows, *chunk) for chunk in zip(*chunks, strict=True)])
    part, shift, spread = sums[:, 1:3], sums[:, 3:5], sums[:, 5:7]
    extra = torch.zeros_like(sd) if added is None else added[index, None] / sd.square()

    count = part.clamp(min=_EMPTY)
    variance = (spread / count - (shift / count).square()).clamp(min=_NEAREST_SD**2) + extra
    new_sd = torch.maximum(sd * variance.sqrt(), rows.floor[index, None])
    logit = (count[:, 1:] / count[:, :1]).log()
    update = torch.cat([logit, theta[:, 1:3] + sd * shift / count, new_sd.log()], dim=1)

    weight, spread = log_weight.exp(), spread + part * extra
    slope = torch.cat([part[:, 1:] - weight[:, 1:], shift, spread - part], dim=1)
    known = torch.cat([weight[:, :1] * weight[:, 1:], part, 2 * spread], dim=1)
    missing = torch.empty((len(theta), 5, 5), dtype=theta.dtype, device=theta.device)
    row, column = torch.tril_indices(5, 5, device=theta.device)
    missing[:, row, column] = missing[:, column, row] = sums[:, 7:]
    missing[:, 3] -= extra[:, :1] * missing[:, 0]
    missing[:, 4] += extra[:, 1:] * missing[:, 0]
    curvature = torch.diag_embed(known) - missing
    for k in (0, 1):
        curvature[:, 1 + k, 3 + k] += 2 * shift[:, k]
        curvature[:, 3 + k, 1 + k] += 2 * shift[:, k]
    return Survey(sums[:, 0], update, slope, curvature, known)


def _sums(
    rows: Rows,
    index: Int64[Tensor, " some"],
    mean: Float64[Tensor, "some 2"],
    sd: Float64[Tensor, "some 2"],
    height: Float64[Tensor, "some 2"],
) -> Float64[Tensor, "some 22"]:
    """Return means over points of 22 values.

    The log density; both memberships, alone, times u and times its square, where u is the distance from the
    mean in sds; the product of the memberships times each product of two slopes of the log odds.
    """
    x = rows.x[index]
    u1, u2 = ((x - mean[:, k, None]).div_(sd[:, k, None]) for k in (0, 1))
    square1, square2 = u1.square(), u2.square()
    if rows.within is not None:
        within = rows.within[index]
        square1 += within / sd[:, :1].square()
        square2 += within / sd[:, 1:].square()
    first, second = height[:, :1] - 0.5 * square1, height[:, 1:] - 0.5 * square2
    density = torch.maximum(first, second)
    odds = second.sub_(first)
    member2, member1 = odds.sigmoid(), odds.neg_().sigmoid_()
    density -= torch.maximum(member1, member2).log_()
    both = member1 * member2
    points = x.shape[1]
    if rows.share is not None:
        share, points = rows.share[index], 1
        for value in (density, both, member1, member2):
            value *= share
    found = [
        density,
        member1,
        member2,
        member1 * u1,
        member2 * u2,
        member1 * square1,
        member2 * square2,
        both,
    ]
    found = [value.sum(dim=1) for value in found]
    slopes = [u1.neg_(), u2, (1 - square1), square2.sub_(1)]
    for i, left in enumerate(slopes):
        weighted = both * left
        found += [weighted.sum(dim=1), *((weighted * right).sum(dim=1) for right in slopes[: i + 1])]
    return torch.stack(found, dim=1) / points


def at_floor(
    floor: Float64[Tensor, " mixtures"], theta: Float64[Tensor, "mixtures 5"]
) -> Bool[Tensor, "mixtures 2"]:
    """Return which components have shrunk to one value."""
    return theta[:, 3:] <= floor.log()[:, None] + _AT_FLOOR


def climb(
    rows: Rows,
    index: Int64[Tensor, " mixtures"],
    theta: Float64[Tensor, "mixtures 5"],
    *,
    tolerance: float,
    dead: float,
) -> tuple[Float64[Tensor, "mixtures 5"], Float64[Tensor, " mixtures"], Bool[Tensor, " mixtures"]]:
    """Return the parameters at a maximum of the likelihood, the likelihood, and whether it converged.

    Long steps are those of expectation-maximisation; where it goes slowly, Newton's method takes over, in a
    trust region, so that beyond rounding the likelihood never falls. A mixture stops where an unlimited step
    promises less than ``tolerance`` nats per point (or less than the rounding of the means can show), where a
    component has shrunk to one value, or where the size of the logit passes ``dead``.
    """
    result, converged = theta.clone(), torch.zeros_like(theta[:, 0], dtype=torch.bool)
    likelihood = torch.zeros_like(theta[:, 0])
    active = torch.arange(len(theta), device=theta.device)
    here, radius = survey(rows, index, theta), torch.ones_like(likelihood)
    for left in range(_PASSES, -1, -1):
        unit = _unit(theta)
        step, length, gain = _newton_step(here, radius)
        done = (gain < tolerance + _rounding(theta, unit)) | at_floor(rows.floor[index], theta).any(dim=1)
        stop = done | (theta[:, 0].abs() > dead) | (left == 0)
        stopped = stop.nonzero()[:, 0]  # indices: on a GPU every use of a mask is waited for
        if len(stopped):
            where, keep = active[stopped], (~stop).nonzero()[:, 0]
            result[where], likelihood[where], converged[where] = (
                value[stopped] for value in (theta, here.likelihood, done)
            )
            if not len(keep):
                break
            active, index, theta, unit, step, length, radius = (
                value[keep] for value in (active, index, theta, unit, step, length, radius)
            )
            here = Survey(*(value[keep] for value in here))
        far = ((here.update - theta) / unit).abs().amax(dim=1) > _FAR
        trial = torch.where(far[:, None], here.update, theta + step * unit)
        trial[:, 3:] = torch.maximum(trial[:, 3:], rows.floor[index].log()[:, None])
        there = survey(rows, index, trial)
        slack = 1e-14 * (1 + here.likelihood.abs())
        better = far | (there.likelihood >= here.likelihood - slack)
        radius = torch.where(better, torch.maximum(radius, 2 * length), length / 4)
        theta, here = _moved(better, trial, there, theta, here)
    return result, likelihood, converged


def settle(
    rows: Rows,
    index: Int64[Tensor, " mixtures"],
    theta: Float64[Tensor, "mixtures 5"],
    added: Float64[Tensor, " rows"],
) -> tuple[Float64[Tensor, "mixtures 5"], Float64[Tensor, " mixtures"], Bool[Tensor, " mixtures"]]:
    """Return a fixed point of the steps that add to variances, its likelihood, and whether it was reached.

    Newton's method on the equations of the fixed point where it at least halves what is left of them, and
    else the steps themselves. The likelihood may fall: it is not what these steps climb.
    """
    result, converged = theta.clone(), torch.zeros_like(theta[:, 0], dtype=torch.bool)
    likelihood = torch.zeros_like(theta[:, 0])
    active = torch.arange(len(theta), device=theta.device)
    here, plain = survey(rows, index, theta, added), torch.zeros_like(converged)
    for left in range(_PASSES, -1, -1):
        unit = _unit(theta)
        rest = _rest(here)
        squared = (here.slope.square() / here.known.clamp(min=_EMPTY)).sum(dim=1)
        done = torch.fmin(rest, squared) < _SETTLED**2 + _rounding(theta, unit)
        stop = done | (left == 0)
        stopped = stop.nonzero()[:, 0]  # indices: on a GPU every use of a mask is waited for
        if len(stopped):
            where, keep = active[stopped], (~stop).nonzero()[:, 0]
            result[where], likelihood[where], converged[where] = (
                value[stopped] for value in (theta, here.likelihood, done)
            )
            if not len(keep):
                break
            active, index, theta, unit, rest, plain = (
                value[keep] for value in (active, index, theta, unit, rest, plain)
            )
            here = Survey(*(value[keep] for value in here))
        step = torch.linalg.solve_ex(here.curvature, here.slope[:, :, None]).result[:, :, 0]
        stable = torch.linalg.cholesky_ex(here.curvature + here.curvature.mT).info == 0
        newton = stable & ~plain & (step.abs() < 1).all(dim=1)
        trial = torch.where(newton[:, None], theta + step * unit, here.update)
        there = survey(rows, index, trial, added)
        plain = newton & ~(_rest(there) < rest / 4)
        theta, here = _moved(~plain, trial, there, theta, here)
    return result, likelihood, converged


def _newton_step(here: Survey, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return an uphill step in the units of the slope, its length, and the gain of an unlimited one.

    In units in which the curvature under known memberships is 1, each principal direction is stepped along
    by its slope over the size of its curvature, at most by the radius.
    """
    unit = here.known.clamp(min=_EMPTY).rsqrt()
    value, vector = torch.linalg.eigh(here.curvature * unit[:, :, None] * unit[:, None, :])
    slope = (vector * (here.slope * unit)[:, :, None]).sum(dim=1)
    size = value.abs().clamp(min=_FLATTEST)
    gain = 0.5 * (slope.square() / size).sum(dim=1)
    part = torch.maximum(torch.minimum(slope / size, radius[:, None]), -radius[:, None])
    step = (vector * part[:, None, :]).sum(dim=2) * unit
    excess = (step.abs() / step.new_tensor(_LONGEST)).amax(dim=1).clamp(min=1.0)
    return step / excess[:, None], part.abs().amax(dim=1) / excess, gain


def _unit(theta: Tensor) -> Tensor:
    """Return the units of the slope: 1 for logit and log sds, the sd of its component for a mean."""
    unit = torch.ones_like(theta)
    unit[:, 1:3] = theta[:, 3:].exp()
    return unit


def _rounding(theta: Tensor, unit: Tensor) -> Tensor:
    """Return the squared rounding of the means in sds, summed."""
    return (EPSILON * theta / unit)[:, 1:3].square().sum(dim=1)


def _rest(here: Survey) -> Tensor:
    """Return the absolute slope times the Newton step: the residual, however stiff a direction is."""
    step = torch.linalg.solve_ex(here.curvature, here.slope[:, :, None]).result[:, :, 0]
    return (here.slope * step).sum(dim=1).abs()


def _moved(moves: Tensor, trial: Tensor, there: Survey, theta: Tensor, here: Survey) -> tuple[Tensor, Survey]:
    """Return the trial where it is accepted, and the previous values elsewhere."""
    chosen = [
        torch.where(moves.view(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip((trial, *there), (theta, *here), strict=True)
    ]
    return chosen[0], Survey(*chosen[1:])
