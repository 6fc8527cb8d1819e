"""Which bottleneck objectives are the same up to a factor and a constant, on random discrete encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lpc.arrays import Array, as_float64
from lpc.errors import unknown_name
from lpc.evaluation.quantities import Quantities, discrete_quantities

BETAS = (1.25, 2.0, 5.0, 20.0)
"""Weights of I[Y; Z] at which objectives are compared."""

Objective = Callable[[pd.DataFrame, float], pd.Series]
"""Function from quantities (one row per encoder) and beta to the objective, which is minimised, in nats."""


def _canonical(regulariser: str, weight: Callable[[float], float]) -> Objective:
    return lambda q, beta: q["decoder_uncertainty"] + weight(beta) * q[regulariser]


def _entropy_distance(gamma: Callable[[float], float], *, encoding: bool) -> Objective:
    def value(q: pd.DataFrame, beta: float) -> pd.Series:
        decoder, reverse = q["decoder_uncertainty"], q["reverse_decoder_uncertainty"]
        distance = decoder + reverse + gamma(beta) * (decoder - reverse)
        return distance + (gamma(beta) - 1) * q["encoding_uncertainty"] if encoding else distance

    return value


OBJECTIVES: Mapping[str, Objective] = {
    "IB": lambda q, beta: q["preserved_information"] - beta * q["preserved_relevant_information"],
    "IB, residual": lambda q, beta: q["preserved_information"] + beta * q["residual_information"],
    "IB, canonical": _canonical("redundant_information", lambda beta: 1 / (beta - 1)),
    "IB, canonical, 1/β": _canonical("redundant_information", lambda beta: 1 / beta),
    "IB, entropy distance": _entropy_distance(lambda beta: 1 - 2 / beta, encoding=True),
    "IB, entropy distance, 1 - 1/β": _entropy_distance(lambda beta: 1 - 1 / beta, encoding=True),
    "DIB": lambda q, beta: q["encoding_entropy"] - beta * q["preserved_relevant_information"],
    "DIB, canonical": _canonical("reverse_decoder_uncertainty", lambda beta: 1 / (beta - 1)),
    "DIB, canonical, 1/β": _canonical("reverse_decoder_uncertainty", lambda beta: 1 / beta),
    "DIB, encoding entropy": _canonical("encoding_entropy", lambda beta: 1 / beta),
    "DIB, encoding entropy, 1/(β-1)": _canonical("encoding_entropy", lambda beta: 1 / (beta - 1)),
    "DIB, entropy distance": _entropy_distance(lambda beta: 1 - 2 / beta, encoding=False),
    "VIB": lambda q, beta: q["preserved_information"] / beta - q["preserved_relevant_information"],
    "VIB, β": lambda q, beta: beta * q["preserved_information"] - q["preserved_relevant_information"],
    "CEB": lambda q, beta: q["redundant_information"] - q["preserved_relevant_information"],
}
"""Objectives to minimise. A weight after the last comma is a wrong one, for a control."""


class Claim(NamedTuple):
    """The claim that one objective is a positive factor times another plus a constant; or a control.

    Attributes
    ----------
    first, second
        Names of the objectives, keys of :data:`OBJECTIVES`.
    factor
        Stated factor, a function of beta; None: a control, which gets the factor that fits best.
    """

    first: str
    second: str
    factor: Callable[[float], float] | None


CLAIMS = (
    Claim("IB", "IB, residual", lambda beta: 1.0),
    Claim("IB", "IB, canonical", lambda beta: beta - 1),
    Claim("IB", "IB, canonical, 1/β", None),
    Claim("IB", "VIB", lambda beta: beta),
    Claim("IB", "VIB, β", None),
    Claim("IB", "CEB", lambda beta: 1.0),
    Claim("IB", "IB, entropy distance", lambda beta: beta / 2),
    Claim("IB", "IB, entropy distance, 1 - 1/β", None),
    Claim("DIB", "DIB, canonical", lambda beta: beta - 1),
    Claim("DIB", "DIB, canonical, 1/β", None),
    Claim("DIB", "DIB, encoding entropy", lambda beta: beta),
    Claim("DIB", "DIB, encoding entropy, 1/(β-1)", None),
    Claim("DIB", "DIB, entropy distance", lambda beta: beta / 2),
)
"""The claims in the order of Kirsch et al., Section 4 and Appendix A.2; CEB's is made for beta = 2 only."""
DETERMINISTIC = Claim("DIB", "IB", lambda beta: 1.0)
"""Claims that are made for deterministic encoders only."""


def random_problem(*, points: int, classes: int, seed: int) -> Float64[Tensor, "points classes"]:
    """Return a random joint distribution p(x, y): the softmax of Gaussian numbers with sd 2."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(points * classes, generator=generator, dtype=torch.float64)
    return logits.softmax(dim=0).reshape(points, classes)


def random_encoders(
    *, encoders: int, points: int, categories: int, seed: int, deterministic: bool = False
) -> Float64[Tensor, "encoders points categories"]:
    """Return random distributions p(z | x), from nearly uniform to nearly deterministic ones.

    Parameters
    ----------
    encoders, points, categories
        Numbers of encoders, of x and of z.
    seed
        Seed of all draws.
    deterministic
        Whether to keep only the most probable z of every x.

    Notes
    -----
    Softmax of Gaussian logits whose sd runs from 0.1 to 10 in equal ratios over the encoders.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(encoders, points, categories, generator=generator, dtype=torch.float64)
    if deterministic:
        return torch.nn.functional.one_hot(logits.argmax(dim=2), categories).to(torch.float64)
    sharpness = torch.logspace(-1, 1, encoders, dtype=torch.float64)
    return (sharpness[:, None, None] * logits).softmax(dim=2)


def of_encoders(
    p_xy: Float[Array, "points classes"], encoders: Float[Array, "encoders points categories"]
) -> pd.DataFrame:
    """Return the quantities of p(x, y) p(z | x) in nats, one row per encoder, one column per quantity.

    Raises
    ------
    ValueError
        If the two have different numbers of points, or :func:`lpc.evaluation.quantities.discrete_quantities`
        refuses them.
    """
    data, encoder = as_float64(p_xy, name="p_xy", dims=2), as_float64(encoders, name="encoders", dims=3)
    if data.shape[0] != encoder.shape[1]:
        raise ValueError(f"p_xy has {data.shape[0]} points and encoders have {encoder.shape[1]}")
    rows = [discrete_quantities(data[:, :, None] * one[:, None, :]) for one in encoder]
    return pd.DataFrame(rows, columns=list(Quantities._fields))


def objective(name: str, quantities: pd.DataFrame, *, beta: float) -> pd.Series:
    """Return an objective of :data:`OBJECTIVES` in nats, one value per encoder.

    Raises
    ------
    ValueError
        If the name is unknown, or beta is not above 1.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    if not 1 < beta < math.inf:
        raise ValueError(f"objective {name!r} at beta={beta}; expected a number above 1")
    return OBJECTIVES[name](quantities, beta)


def spread(claim: Claim, quantities: pd.DataFrame, *, beta: float) -> float:
    """Return how far first - factor * second is from a constant: its range over encoders, in nats.

    A control's factor is the slope of the regression of the first on the second.
    """
    first, second = (objective(name, quantities, beta=beta) for name in (claim.first, claim.second))
    factor = first.cov(second) / second.var() if claim.factor is None else claim.factor(beta)
    difference = first - factor * second
    return float(difference.max() - difference.min())


def spreads(
    quantities: pd.DataFrame, *, claims: Sequence[Claim] = CLAIMS, betas: Sequence[float] = BETAS
) -> pd.DataFrame:
    """Return every claim's spread at every beta; the index has both names, and whether it is a control."""
    rows = {
        (claim.first, claim.second, claim.factor is None): {
            beta: spread(claim, quantities, beta=beta) for beta in betas
        }
        for claim in claims
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["first", "second", "control"])
    return table


def entropy_distance(joint: Float[Array, "first second"]) -> float:
    """Return the entropy distance of two discrete variables, H[Y|Z] + H[Z|Y] (Eq. 19), in nats."""
    found = discrete_quantities(as_float64(joint, name="joint", dims=2)[None])
    return found.decoder_uncertainty + found.reverse_decoder_uncertainty


def triangle_slack(joint: Float[Array, "first second third"]) -> float:
    """Return d(X,Y) + d(Y,Z) - d(X,Z) in nats, d the entropy distance: at least 0 for a metric."""
    every = as_float64(joint, name="joint", dims=3)
    through = entropy_distance(every.sum(dim=2)) + entropy_distance(every.sum(dim=0))
    return through - entropy_distance(every.sum(dim=1))


class Rate(NamedTuple):
    """Parts of the deep variational information bottleneck's regulariser, in nats.

    Attributes
    ----------
    half_squared_norm
        E ||Z||^2 / 2.
    constant
        k/2 ln(2 pi), which the paper drops.
    encoding_uncertainty
        H[Z | X].
    """

    half_squared_norm: float
    constant: float
    encoding_uncertainty: float

    @property
    def divergence(self) -> float:
        """The mean of D(p(z|x) || N(0, I))."""
        return self.half_squared_norm + self.constant - self.encoding_uncertainty


def gaussian_rate(mean: Float[Array, "points width"], sd: Float[Array, "points width"]) -> Rate:
    r"""Return the parts of :math:`\mathbb E_x D_{KL}(p(z|x) \Vert \mathcal N(0, I))` of Gaussian encoders.

    Parameters
    ----------
    mean, sd
        Mean and sd of Z given each point, node by node.

    Raises
    ------
    ValueError
        If the shapes differ, or an sd is not positive.

    References
    ----------
    Kirsch et al. 2020, Appendix A.7.
    """
    centre, scale = as_float64(mean, name="mean", dims=2), as_float64(sd, name="sd", dims=2)
    if centre.shape != scale.shape:
        raise ValueError(f"mean has shape {tuple(centre.shape)} and sd {tuple(scale.shape)}")
    if not bool((scale > 0).all()):
        raise ValueError(f"sd has {float(scale.min())}; expected positive numbers")
    squared_norm = (centre.square() + scale.square()).sum(dim=1).mean()
    entropy = (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=1).mean()
    return Rate(0.5 * float(squared_norm), 0.5 * centre.shape[1] * math.log(2 * math.pi), float(entropy))
