"""Free latents: the loss of Eq. 3 without a network, its minimum, and a classifier trained on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from scipy.optimize import brentq
from torch import Tensor

from experiments.chapters.theory.readout import readout
from lpc.equilibrium import reachable_separation
from lpc.evaluation.binarity import hypercube


def simplex(classes: int, separation: float) -> Float[Tensor, "classes classes"]:
    """Return the weight vectors of a symmetric classifier: centred, with all distances ``separation``."""
    vertices = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return vertices * separation / math.sqrt(2)


def _loss(z: Tensor, weight: Tensor, bias: Tensor, own: Tensor, gamma: Tensor) -> Tensor:
    """Return Eq. 3 for every point; ``own`` holds ones at the labels."""
    logits = z @ weight.mT + bias[:, None]
    return logits.logsumexp(-1) - (logits * own).sum(-1) + gamma[:, None] * z.square().sum(-1)


def _newton(
    z: Tensor, weight: Tensor, bias: Tensor, own: Tensor, gamma: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Return the latents that minimise Eq. 3, by Newton's method with step halving.

    Shapes: z (runs, points, width), weight (runs, classes, width), own (points, classes), gamma (runs).
    """
    pull = 2 * gamma[:, None, None] * torch.eye(z.shape[-1], dtype=z.dtype)
    for _ in range(iterations):
        p = (z @ weight.mT + bias[:, None]).softmax(-1)
        gradient = (p - own) @ weight + 2 * gamma[:, None, None] * z  # Eq. 15
        mean = p @ weight
        spread = torch.einsum("rnk,rkp,rkq->rnpq", p, weight, weight) - mean[..., None] * mean[..., None, :]
        step = torch.linalg.solve(spread + pull[:, None], gradient)
        share = torch.ones_like(z[..., :1])
        old = _loss(z, weight, bias, own, gamma)
        for _ in range(30):
            worse = _loss(z - share * step, weight, bias, own, gamma) > old + 1e-12 * (1 + old.abs())
            if not bool(worse.any()):
                break
            share = torch.where(worse[..., None], share / 2, share)
        z = z - share * step
        if bool((step.norm(dim=-1) <= tolerance * z.norm(dim=-1)).all()):
            break
    return z


def equilibrium(
    weight: Float[Tensor, "classes width"],
    *,
    gamma: float,
    label: Integer[Tensor, " points"],
    start: Float[Tensor, "points width"],
) -> Float[Tensor, "points width"]:
    r"""Return the latents at which loss and penalty balance, for a fixed classifier without bias.

    Notes
    -----
    Newton's method on :math:`-\log p_y(z) + \gamma\lVert z\rVert^2` (Eq. 3), point by point. The loss is
    strictly convex in z, so the result does not depend on the start.

    Parameters
    ----------
    weight
        Weight of the classifier, shape (classes, width), float64.
    gamma
        Weight of the squared norm, in Eq. 3's convention.
    label
        Class of each point.
    start
        Initial latent of each point.
    """
    own = torch.nn.functional.one_hot(label, len(weight)).to(weight)
    rate = torch.tensor([gamma], dtype=weight.dtype)
    bias = weight.new_zeros(1, len(weight))
    return _newton(start[None], weight[None], bias, own, rate, iterations=200, tolerance=1e-13)[0]


def train_classifier(
    *,
    gammas: Sequence[float],
    learning_rates: Sequence[float],
    record: Sequence[int],
    adaptive: bool = True,
    classes: int = 10,
    width: int = 8,
    batch_size: int = 128,
    initial: float = 1e-2,
    weight_decay: float = 0.5e-4,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a linear classifier by AdamW on latents that are at equilibrium at every step.

    There is one latent per class. Before every step, the latents move to the minimum of Eq. 3 for the present
    classifier; then the classifier's weights and biases take one AdamW step on a batch of randomly drawn
    labels. gamma is constant.

    Parameters
    ----------
    gammas, learning_rates
        Values of gamma and of the learning rate; every pair is one run, and all runs see the same batches.
    record
        Numbers of steps after which a row is recorded; training ends at the last of them.
    adaptive
        Whether to use AdamW; if not, steps are the gradient divided by its root mean square over the tensor:
        they have the same size, but the gradient's direction.
    classes, width, batch_size
        Number of classes, number of nodes, and images per batch.
    initial
        Standard deviation of the initial weights; biases begin at zero.
    weight_decay
        Weight decay of AdamW (LPC Appendix C).
    seed
        Seed of weights and batches.

    Returns
    -------
    DataFrame
        Columns ``gamma``, ``learning_rate``, ``step``, ``reach`` and ``reach_pair``
        (:func:`lpc.equilibrium.reachable_separation` for all pairs, and for one), the fields of
        :class:`experiments.chapters.theory.readout.Readout`, ``weight_spread``: the sd over the mean of the
        absolute weights, and ``cube_spread``: the same for the latents, averaged over nodes (0 on the
        vertices of a cube).
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = [(gamma, rate) for gamma in gammas for rate in learning_rates]
    gamma, rate = torch.tensor(pairs, dtype=torch.float64).T
    runs, own = len(pairs), torch.eye(classes, dtype=torch.float64)
    first = initial * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    weight = first.repeat(runs, 1, 1).requires_grad_()
    bias = torch.zeros(runs, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=1.0, weight_decay=weight_decay)
    z = torch.zeros(runs, classes, width, dtype=torch.float64)
    label = torch.arange(classes)
    rows = []
    for step in range(1, max(record) + 1):
        drawn = torch.randint(classes, (batch_size,), generator=generator)
        share = torch.bincount(drawn, minlength=classes).double() / batch_size
        with torch.no_grad():
            z = _newton(z, weight, bias, own, gamma, iterations=5, tolerance=1e-6)
            error = share[:, None] * ((z @ weight.mT + bias[:, None]).softmax(-1) - own)
            weight.grad, bias.grad = error.mT @ z, error.sum(1)
            before = weight.clone(), bias.clone()
            if adaptive:
                optimizer.step()  # at rate 1, of which every run takes the share of its own rate
            else:
                for value in (weight, bias):
                    size = value.grad.square().flatten(1).mean(1).sqrt()  # type: ignore[union-attr]
                    value -= value.grad / size.reshape(-1, *[1] * (value.dim() - 1))  # type: ignore[operator]
            for value, old in zip((weight, bias), before, strict=True):
                value.copy_(torch.lerp(old, value, rate.reshape(-1, *[1] * (value.dim() - 1))))
        if step in record:
            with torch.no_grad():
                z = _newton(z, weight, bias, own, gamma, iterations=50, tolerance=1e-12)
            for run, (own_gamma, own_rate) in enumerate(pairs):
                w, b = weight[run].detach(), bias[run].detach()
                budget = {"width": width, "learning_rate": own_rate, "steps": step}
                rows.append(
                    {
                        "gamma": own_gamma,
                        "learning_rate": own_rate,
                        "step": step,
                        "reach": reachable_separation(**budget, classes=classes),
                        "reach_pair": reachable_separation(**budget),
                        **readout(z[run], label, weight=w, bias=b, gamma=own_gamma)._asdict(),
                        "weight_spread": float(w.abs().std(correction=0) / w.abs().mean()),
                        "cube_spread": hypercube(z[run], label).mean_variation,
                    }
                )
    return pd.DataFrame(rows)


def compensating_radius(angle: float, *, gap: float, classes: int = 10) -> float:
    r"""Return r'/r0: how many times longer a turned latent must be for the same cross-entropy.

    Notes
    -----
    The classifier is symmetric and has no bias. The latent points along its own class's weight vector, where
    its logit gap is ``gap``, and is turned by ``angle`` towards another class's. All K logits count, whereas
    LPC Eq. 12 keeps only the true one. With weights of unit norm, the logits along the turned
    direction are :math:`\cos\phi`, :math:`\cos(\phi_1 - \phi)` and
    :math:`-(\cos\phi + \cos(\phi_1 - \phi)) / (K - 2)`, where :math:`\cos\phi_1 = -1/(K-1)`.

    Parameters
    ----------
    angle
        Angle in radians, at least 0 and less than half the angle between two weight vectors, at which the
        other class wins.
    gap
        True logit minus any other one, before the turn.
    classes
        Number of classes K, at least 3.
    """
    between = math.acos(-1 / (classes - 1))
    if classes < 3 or gap <= 0 or not 0 <= angle < between / 2:
        raise ValueError(
            f"classes={classes}, gap={gap}, angle={angle}; expected 3 or more classes, a gap above 0 and "
            f"an angle from 0 to below {between / 2:.4f}"
        )

    def cross_entropy(radius: float, turn: float) -> float:
        true, other = math.cos(turn), math.cos(between - turn)
        rest = -(true + other) / (classes - 2)
        wrong = math.exp(radius * (other - true)) + (classes - 2) * math.exp(radius * (rest - true))
        return math.log1p(wrong)

    first = gap * (classes - 1) / classes  # a gap of r (1 + 1 / (K - 1)) at radius r and unit weights
    target = cross_entropy(first, 0.0)
    upper = first
    while cross_entropy(upper, angle) > target:
        upper *= 2
    return float(brentq(lambda radius: cross_entropy(radius, angle) - target, first / 2, upper)) / first


class Binned(NamedTuple):
    """Entropies of binned latents, in nats.

    Attributes
    ----------
    entropy
        Entropy of the bins (LPC Eq. 5).
    split
        Entropy of the bins given the class: 0 if every class lies in one bin.
    merged
        Entropy of the class given the bins: 0 if no bin holds points of two classes. Both are 0 if and only
        if bins and classes are the same; then ``entropy`` is that of the labels (LPC Eq. 6).
    """

    entropy: float
    split: float
    merged: float


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def binned(
    latent: Float[np.ndarray | Tensor, "points width"],
    label: Integer[np.ndarray | Tensor, " points"],
    width: float,
    *,
    offsets: int = 4,
    seed: int = 0,
) -> Binned:
    r"""Return the discrete entropy of latents in cubic bins, and how the bins split and merge classes.

    Notes
    -----
    :math:`H_\Delta = -\sum_i p_i \log p_i`, with :math:`p_i` the share of points in bin i. The grid's
    origin is arbitrary, so all values are averaged over random origins.

    Parameters
    ----------
    latent, label
        Latents and their classes.
    width
        Edge of a bin, in latent units.
    offsets, seed
        Number of random origins, and their seed.
    """
    points = np.asarray(latent, dtype=np.float64)
    _, classes = np.unique(np.asarray(label), return_inverse=True)
    own = _entropy(np.bincount(classes))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(offsets):
        bins = np.floor(points / width + generator.random(points.shape[1]))
        _, place = np.unique(bins, axis=0, return_inverse=True)
        place = place.reshape(-1)
        entropy = _entropy(np.bincount(place))
        joint = _entropy(np.bincount(place * (classes.max() + 1) + classes))
        values.append((entropy, joint - own, joint - entropy))
    return Binned(*(float(value) for value in np.mean(values, axis=0)))
