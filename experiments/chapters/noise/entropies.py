"""Entropies with noise: of piecewise uniform distributions, exactly, and of latents by several measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Integer
from scipy import integrate, optimize, special
from torch import Tensor

from experiments.chapters.surrogates.estimator_bias import Error, bias
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.quantities import gaussian_quantities

_REACH, _STEPS = 10.0, 40
"""Where densities are evaluated: up to this many noise sds from an edge, with this many points per sd."""
_LEAST_SD = 1e-10
"""Smallest sd of the noise, relative to the pieces' span: below it, the points about an edge round to one."""


class Piece(NamedTuple):
    """A piece of a distribution on the line: uniform from start to end, or a point if these are equal."""

    start: float
    end: float
    share: float = 1.0


def noisy_entropy(pieces: Sequence[Piece], *, sd: float) -> float:
    r"""Return the differential entropy of a variable on the line plus Gaussian noise, in nats.

    Parameters
    ----------
    pieces
        Pieces of the variable's distribution; their shares sum to one.
    sd
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If there is no piece, a piece ends before it starts or has no share, shares do not sum to one, or the
        sd is not finite or below 1e-10 of the pieces' span.

    Notes
    -----
    The density is
    :math:`\sum_j \frac{p_j}{b_j - a_j}[\Phi(\frac{z - a_j}\sigma) - \Phi(\frac{z - b_j}\sigma)]`, level
    between edges that are far apart. The trapezoidal rule uses points close together about each edge and none
    in between, so that its error does not grow as the noise shrinks.
    """
    if not pieces or any(piece.end < piece.start or piece.share <= 0 for piece in pieces):
        raise ValueError(f"pieces are {list(pieces)}; expected one or more with start <= end and share > 0")
    total = sum(piece.share for piece in pieces)
    if abs(total - 1) > 1e-12:
        raise ValueError(f"shares of the pieces sum to {total}; expected 1")
    edges = np.unique([edge for piece in pieces for edge in (piece.start, piece.end)])
    if not max(_LEAST_SD * (edges[-1] - edges[0]), 0.0) < sd < math.inf:
        raise ValueError(f"sd is {sd}; expected a finite number above {_LEAST_SD:g} of the pieces' span")
    about = sd * np.linspace(-_REACH, _REACH, int(2 * _REACH * _STEPS) + 1)
    z = np.unique(edges[:, None] + about)
    density = np.zeros_like(z)
    for start, end, share in pieces:
        if end > start:
            away = np.abs(z - (start + end) / 2)  # subtract small tails, not numbers near one
            half = (end - start) / 2
            inside = special.ndtr((half - away) / sd) - special.ndtr((-half - away) / sd)
            density += share / (end - start) * inside
        else:
            density += share / (sd * math.sqrt(2 * math.pi)) * np.exp(-0.5 * ((z - start) / sd) ** 2)
    return float(integrate.trapezoid(special.entr(density), z))


class Measures(NamedTuple):
    """The entropy of one set of latents by several measures, in nats.

    Attributes
    ----------
    exact
        Exact entropy: with noise, that of the mixture of one Gaussian per point; without, minus infinity.
    bound
        Entropy of a Gaussian with the variance of each node.
    knn
        Estimate by nearest neighbours, from one draw of the noise.
    matched
        Entropy of a Gaussian mixture matched to the classes, and the error of nearest neighbours on it.
    """

    exact: float
    bound: float
    knn: float
    matched: Error


def measured_entropies(
    latent: Float64[Tensor, "points width"],
    label: Integer[Tensor, " points"],
    *,
    noise_variance: float,
    k: int,
    drawn: int = 1024,
    seed: int = 0,
) -> Measures:
    """Return the entropy of latents plus Gaussian noise by several measures.

    Parameters
    ----------
    latent, label
        Latents before noise is added, and the class of each.
    noise_variance
        Variance of the noise at each node; 0: no noise.
    k
        Rank of the neighbour.
    drawn
        Largest number of points at which the exact entropy is estimated.
    seed
        Seed of all draws.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
    seen = latent + math.sqrt(noise_variance) * noise
    exact = -math.inf
    if noise_variance > 0:
        at = {"generator": generator, "points": min(drawn, len(latent))}
        found = gaussian_quantities(latent, label, variance=noise_variance, **at)
        exact = found.quantities.encoding_entropy
    variance = latent.var(dim=0) + noise_variance
    return Measures(
        exact,
        float(0.5 * (2 * math.pi * math.e * variance).log().sum()),
        knn_entropy(seen, k=k),
        bias(seen, label, k=k, generator=generator).encoding_entropy,
    )


def fano_error(uncertainty: float, *, classes: int) -> float:
    r"""Return the smallest probability of a wrong class that a decoder uncertainty allows.

    Parameters
    ----------
    uncertainty
        Decoder uncertainty H[Y | Z] in nats, from 0 to the logarithm of the number of classes.
    classes
        Number of classes.

    Notes
    -----
    Fano's inequality: the smallest e with :math:`-e\ln e - (1-e)\ln(1-e) + e\ln(K-1) \ge H[Y|Z]`.
    """
    most = math.log(classes)
    if not 0 <= uncertainty <= most:
        raise ValueError(f"uncertainty is {uncertainty}; expected 0 to log {classes} = {most:.4f}")

    def above(error: float) -> float:
        binary = special.entr(error) + special.entr(1 - error)
        return float(binary) + error * math.log(classes - 1) - uncertainty

    chance = 1 - 1 / classes
    return chance if above(chance) <= 0 else float(optimize.brentq(above, 0.0, chance))
