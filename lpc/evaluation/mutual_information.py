"""Mutual information from nearest neighbours, in nats: of continuous, discrete and mixed variables."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import EPSILON, Array, as_labels, as_points, binary_scale, centre, group
from lpc.computing.numerics import measurement
from lpc.computing.options import whole
from lpc.evaluation.neighbours import Method, check_k, count_within, kth_distance

_ONE_VALUE = 16 * EPSILON  # times the largest value: a gap that may be mere rounding
_SHARE = 0.25  # of the smallest gap: distance by which noise moves a repeated value


@measurement
def mutual_information(
    x: Float[Array, "points width_x"],
    y: Float[Array, "points width_y"],
    *,
    k: int,
    seed: int = 0,
    method: Method | None = None,
) -> float:
    r"""Return the Kraskov-Stoegbauer-Grassberger estimate (1) of I(X; Y) for continuous X and Y, in nats.

    Parameters
    ----------
    x, y
        Samples, one row per point, float32 or float64. Each is centred and divided by its rms, so that the
        estimate does not depend on the scale or offset of either.
    k
        Rank of the nearest neighbour in the joint space.
    seed
        Seed of the noise that breaks ties; without ties no noise is added.
    method
        Way to find neighbours, as in :func:`lpc.evaluation.neighbours.kth_distances`; it does not change the
        distances.

    Raises
    ------
    ValueError
        If the arrays are invalid, the numbers of points differ, ``k`` is not below them, the seed is no
        integer, or joint points are repeated more than k times (counted); :func:`mixed_mutual_information`
        accepts such points.

    Notes
    -----
    :math:`\hat I = \psi(k) + \psi(N) - \langle\psi(n_x + 1) + \psi(n_y + 1)\rangle` with :math:`n_x` the
    number of other points strictly nearer in x than the k-th neighbour in the joint space, Chebyshev norm
    throughout. The estimate can be slightly negative; it is not clipped.

    The count assumes that distances differ. If values of a node repeat (rounded values, a grid), they do
    not, and the estimate is too high, by 0.15 nats for a grid of a tenth of an sd. So repeated values of a
    node are moved at random, uniformly by up to a quarter of the node's smallest gap: independent noise that
    leaves the values distinguishable does not change I(X; Y). Values that do not repeat stay.

    References
    ----------
    Kraskov, Stoegbauer and Grassberger 2004, Phys. Rev. E 69, 066138, Eq. 8.
    """
    pair = _pair(x, y, k, seed)
    repeated = int(pair.repeated.sum())
    if repeated:
        raise ValueError(
            f"{repeated} of {len(pair.x)} joint points lie at distance zero from their {k}-th neighbour "
            "(x and y together repeated more than k times): the estimate is undefined; use "
            "mixed_mutual_information"
        )
    return _psi(k) + _psi(len(pair.x)) + float(_continuous(pair, k, method).mean())


@measurement
def mixed_mutual_information(
    x: Float[Array, "points width_x"],
    y: Float[Array, "points width_y"],
    *,
    k: int,
    seed: int = 0,
    method: Method | None = None,
) -> float:
    r"""Return the estimate of Gao et al. of I(X; Y) in nats, for X, Y or both partly discrete.

    Parameters
    ----------
    x, y, k, seed, method
        The arguments of :func:`mutual_information`.

    Raises
    ------
    ValueError
        If the arrays are invalid, the numbers of points differ, ``k`` is not below them, or the seed is no
        integer.

    Notes
    -----
    :math:`\hat I = \psi(N) + \langle\psi(\tilde k) - \psi(\tilde n_x) - \psi(\tilde n_y)\rangle`. At a
    point that occurs more than k times, :math:`\tilde k`, :math:`\tilde n_x` and :math:`\tilde n_y` count
    how often it, its x and its y occur. At any other point they are :math:`k`, :math:`n_x + 1` and
    :math:`n_y + 1` of :func:`mutual_information`, ties broken as there: without repeated points the two
    estimates are the same. Gao et al. have logarithms in place of the last two digammas, and count points
    on the boundary; with a small k that is too low by up to a few tenths of a nat where one variable is
    discrete.

    References
    ----------
    Gao, Kannan, Oh and Viswanath 2017, Estimating mutual information for discrete-continuous mixtures,
    NeurIPS.
    """
    pair = _pair(x, y, k, seed)
    value = _continuous(pair, k, method) + _psi(k)
    if bool(pair.repeated.any()):
        both = torch.cat([pair.x, pair.y], dim=1)
        atoms = [_occurrences(points)[pair.repeated].to(torch.float64) for points in (both, pair.x, pair.y)]
        together, of_x, of_y = (torch.special.digamma(count) for count in atoms)
        value[pair.repeated] = together - of_x - of_y
    return _psi(len(pair.x)) + float(value.mean())


@measurement
def discrete_mutual_information(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    k: int,
    seed: int = 0,
    method: Method | None = None,
) -> float:
    r"""Return Ross's estimate of I(Z; Y) between continuous latents and a discrete label, in nats.

    Parameters
    ----------
    latent
        Latents, shape (points, width), float32 or float64; their scale and offset have no effect.
    label
        Class of each point, shape (points,).
    k
        Rank of the nearest neighbour within the class, below the size of the smallest class.
    seed, method
        The options of :func:`mutual_information`.

    Raises
    ------
    ValueError
        If the arrays are invalid, ``k`` is not below the size of a class (named), the seed is no integer, or
        points of a class are repeated more than k times (counted).

    Notes
    -----
    :math:`\hat I = \psi(N) + \psi(k) - \langle\psi(N_y)\rangle - \langle\psi(m)\rangle` with :math:`N_y`
    the size of the point's class and m one more than the number of points of all classes strictly nearer,
    in the Chebyshev norm, than the k-th neighbour within the class. It can be slightly negative; it is not
    clipped. At most about H(Y): classes that lie apart have that.

    References
    ----------
    Ross 2014, Mutual information between discrete and continuous data sets, PLoS ONE 9 (2), e87357.
    """
    points = _unit_rms(latent, "latent")
    groups = group(as_labels(label, points))
    points = _untied(points, _seeded(seed))
    radius = torch.empty_like(points[:, 0])
    for position, value in enumerate(groups.value.tolist()):
        member = groups.index == position
        check_k(k, int(member.sum()), f"points of class {value}")
        radius[member] = kth_distance(points[member], k=k, norm="linf", method=method)
        repeated = int((radius[member] == 0).sum())
        if repeated:
            raise ValueError(
                f"{repeated} points of class {value} lie at distance zero from their {k}-th neighbour in it "
                "(repeated more than k times): the estimate is undefined; use mixed_mutual_information"
            )
    near = torch.special.digamma(count_within(points, radius).to(torch.float64) + 1)
    size = torch.special.digamma(groups.count[groups.index].to(torch.float64))
    return _psi(len(points)) + _psi(k) - float(size.mean()) - float(near.mean())


def _psi(value: int) -> float:
    return float(torch.special.digamma(torch.tensor(float(value), dtype=torch.float64)))


def _unit_rms(value: Array, name: str) -> Float64[Tensor, "points width"]:
    centred = centre(as_points(value, name=name))
    centred = centred / binary_scale(centred)
    rms = centred.square().mean().sqrt()
    return centred / rms if float(rms) > 0 else centred


class _Pair(NamedTuple):
    """Two sets of points: unchanged except for scale and offset; with ties broken; and where both repeat."""

    x: Tensor
    y: Tensor
    x_untied: Tensor
    y_untied: Tensor
    repeated: Tensor


def _pair(x: Array, y: Array, k: int, seed: int) -> _Pair:
    first, second = _unit_rms(x, "x"), _unit_rms(y, "y")
    second = second.to(first.device)
    if len(second) != len(first):
        raise ValueError(f"x has {len(first)} points and y has {len(second)}")
    check_k(k, len(first), "points")
    generator = _seeded(seed)
    repeated = _occurrences(torch.cat([first, second], dim=1)) > k
    return _Pair(first, second, _untied(first, generator), _untied(second, generator), repeated)


def _continuous(pair: _Pair, k: int, method: Method | None) -> Float64[Tensor, " points"]:
    """Return minus the digammas of the counts in x and in y, each plus one."""
    both = torch.cat([pair.x_untied, pair.y_untied], dim=1)
    radius = kth_distance(both, k=k, norm="linf", method=method)
    counts = [count_within(points, radius).to(torch.float64) + 1 for points in (pair.x_untied, pair.y_untied)]
    return -torch.special.digamma(counts[0]) - torch.special.digamma(counts[1])


def _occurrences(points: Float64[Tensor, "points width"]) -> Int64[Tensor, " points"]:
    _, index, count = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    return count[index]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(whole("seed", seed, least=0, most=2**63 - 1))


def _untied(
    points: Float64[Tensor, "points width"], generator: torch.Generator
) -> Float64[Tensor, "points width"]:
    """Return the points with repeated values of a node moved apart at random, and all others unchanged.

    A constant node stays as it is: it carries no information, and noise would blur the distances of others.
    """
    result = points.clone()
    for column in result.T:
        order = column.argsort(stable=True)
        gap = column[order].diff()
        same = gap <= _ONE_VALUE * float(column.abs().max())
        if not bool(same.any()) or bool(same.all()):
            continue
        tied = torch.zeros(len(column), dtype=torch.bool, device=column.device)
        tied[order[:-1]] |= same
        tied[order[1:]] |= same
        drawn = torch.rand(int(tied.sum()), generator=generator, dtype=torch.float64).to(column.device)
        column[tied] += (2 * drawn - 1) * _SHARE * float(gap[~same].min())
    return result
