"""Entropy and mutual information of latents, in nats."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lpc.arrays import Array, as_distributions, as_labels, as_points, group, group_sums
from lpc.computing.numerics import measurement
from lpc.computing.options import number
from lpc.evaluation.mutual_information import mutual_information as mutual_information
from lpc.evaluation.neighbours import Method, Norm, check_k, check_norm, kth_distance


def _psi(value: int) -> float:
    return float(torch.special.digamma(torch.tensor(float(value), dtype=torch.float64, device="cpu")))


def _log_unit_ball(width: int, norm: Norm) -> float:
    if norm == "linf":
        return width * math.log(2.0)
    return 0.5 * width * math.log(math.pi) - math.lgamma(0.5 * width + 1.0)


def _knn_entropy(points: Tensor, k: int, norm: Norm, floor: float, method: Method | None, who: str) -> float:
    total, width = points.shape
    check_norm(norm)
    check_k(k, total, f"points of {who}")
    number("floor", floor, least=0)
    distance = kth_distance(points, k=k, norm=norm, method=method).cpu().numpy() + floor
    repeated = int((distance == 0).sum())
    if repeated:
        raise ValueError(
            f"{repeated} of the {total} points of {who} lie at distance zero from their {k}-th neighbour "
            "(repeated more than k times): their entropy is minus infinity"
        )
    return _psi(total) - _psi(k) + _log_unit_ball(width, norm) + width * float(np.log(distance).mean())


@measurement
def knn_entropy(
    latent: Float[Array, "points width"],
    *,
    k: int = 100,
    norm: Norm = "l2",
    floor: float = 0.0,
    method: Method | None = None,
) -> float:
    r"""Return the k-NN entropy of the latents in nats: Kozachenko and Leonenko's estimate of H(Z).

    Parameters
    ----------
    latent
        Latents, shape (points, width), float32 or float64. float32 latents that have collapsed to repeated
        values have no entropy.
    k
        Rank of the nearest neighbour whose distance is used.
    norm
        Norm of the distances: ``"l2"``, or ``"linf"`` as in the 2024 release.
    floor
        Constant added to every distance, in latent units. The 2024 release adds 1e-10, which keeps the
        logarithm of repeated points finite and raises the estimate where distances are as small. 0: nothing
        is added.
    method
        Way to find neighbours, as in :func:`lpc.evaluation.neighbours.kth_distances`; it does not change the
        distances.

    Raises
    ------
    ValueError
        If the array is invalid, ``k`` is not below the number of points, ``floor`` is negative or not finite,
        points are repeated more than k times without a floor (counted), or the method is unknown or
        unavailable.

    Notes
    -----
    :math:`\hat H = \psi(N) - \psi(k) + \log V_P + \frac PN\sum_n \log r_{n,k}` with :math:`r_{n,k}` the
    distance to the k-th other point and :math:`V_P` the volume of the norm's unit ball:
    :math:`\pi^{P/2}/\Gamma(P/2+1)` for ``l2``, :math:`2^P` for ``linf``. Without a floor,
    :math:`\hat H(aZ + b) = \hat H(Z) + P\log\lvert a\rvert` holds up to the rounding of the input. The
    estimate falls under mere shrinking, and is not to be ranked across widths.

    References
    ----------
    LPC 2024, Section 3.1 and Table 1; Kozachenko and Leonenko 1987; Kraskov et al. 2004, Eq. 20.
    """
    return _knn_entropy(as_points(latent), k, norm, floor, method, "latent")


@measurement
def conditional_knn_entropy(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    k: int,
    norm: Norm = "l2",
    floor: float = 0.0,
    method: Method | None = None,
) -> float:
    r"""Return the k-NN estimate of H(Z | Y) in nats: the classes' entropies weighted by their shares.

    Parameters
    ----------
    latent
        Latents, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).
    k
        Rank of the nearest neighbour within the class, below the size of the smallest class.
    norm, floor, method
        The options of :func:`knn_entropy`.

    Raises
    ------
    ValueError
        As in :func:`knn_entropy`; the message names the class.

    Notes
    -----
    :math:`\hat H(Z|Y) = \sum_c \frac{n_c}N \hat H(Z | Y = c)`, each term as in :func:`knn_entropy`.
    """
    points = as_points(latent)
    groups = group(as_labels(label, points))
    total = 0.0
    for position, value in enumerate(groups.value.tolist()):
        member = points[groups.index == position]
        entropy = _knn_entropy(member, k, norm, floor, method, f"class {value}")
        total += member.shape[0] / points.shape[0] * entropy
    return total


@measurement
def decoder_uncertainty(
    p_z_given_x: Float[Array, "points categories"], label: Integer[Array, " points"]
) -> float:
    r"""Return H[Y | Z] in nats, exactly, for a categorical Z and the empirical distribution of (X, Y).

    Parameters
    ----------
    p_z_given_x
        Distribution over categories for each point, shape (points, categories): non-negative rows that sum to
        one.
    label
        Class of each point, shape (points,).

    Raises
    ------
    ValueError
        If the arrays are invalid, a probability is negative, or a row's sum differs from one by more than
        1e-5.

    Notes
    -----
    :math:`H[Y|Z] = -\sum_{z,y} p(z,y)\log p(y|z)` with
    :math:`p(z,y) = \frac1N\sum_{n: y_n = y} p(z|x_n)`.

    References
    ----------
    Kirsch et al. 2020, Section 3 (decoder uncertainty).
    """
    probability = as_distributions(p_z_given_x, name="p_z_given_x")
    groups = group(as_labels(label, probability))
    joint = group_sums(probability, groups.index, len(groups.value)).T / probability.shape[0]
    marginal = joint.sum(dim=1, keepdim=True)
    uncertainty = torch.special.xlogy(joint, marginal) - torch.special.xlogy(joint, joint)
    return max(float(uncertainty.sum()), 0.0)
