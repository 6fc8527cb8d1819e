"""Out-of-distribution detection: scores of familiarity, and measures of how well they separate."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    ArrayT,
    as_float64,
    as_labels,
    as_points,
    group,
    group_means,
    like,
    points_at_once,
    rows_at_once,
)
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, flag, number, whole
from lpc.computing.threads import threads_for
from lpc.errors import Undefined
from lpc.evaluation._searching.neighbour_search import kth_among
from lpc.evaluation.misclassification import misclassification_auroc, misclassification_fpr

Covariance = Literal["tied", "class"]


class Detection(NamedTuple):
    """Separation of points of the training distribution from others by a score.

    Attributes
    ----------
    auroc
        Probability that a point from inside has a higher score than one from outside; ties count half.
    fpr95
        Share of points from outside that are accepted when 95 % of those from inside are.
    """

    auroc: float
    fpr95: float


@measurement
def detection(inside: Float[Array, " points"], outside: Float[Array, " others"]) -> Detection:
    """Return AUROC and FPR at 95 % TPR of scores of points from inside and from outside.

    Parameters
    ----------
    inside, outside
        Scores of points from the training distribution and from outside it, higher for more familiar points;
        float32 or float64.

    Raises
    ------
    ValueError
        If the arrays are invalid, or all scores are equal.

    References
    ----------
    Hendrycks and Gimpel 2017; Liang et al. 2018.
    """
    near = as_float64(inside, name="inside", dims=1).cpu()
    far = as_float64(outside, name="outside", dims=1).cpu()
    score = torch.cat([near, far])
    if bool((score == score[0]).all()):
        raise ValueError(f"every score of inside and outside is {float(score[0])}: it separates nothing")
    familiar = torch.arange(len(score), device=score.device) < len(near)
    return Detection(misclassification_auroc(score, familiar), misclassification_fpr(score, familiar))


@measurement
def energy_confidence(
    logits: Float[ArrayT, "points classes"], *, temperature: float = 1.0
) -> Float64[ArrayT, " points"]:
    r"""Return minus the free energy of the logits: :math:`T \log\sum_k e^{l_k / T}`.

    Parameters
    ----------
    logits
        Logits, shape (points, classes), float32 or float64.
    temperature
        Temperature T, above 0.

    References
    ----------
    Liu et al. 2020, Energy-based out-of-distribution detection, Eq. 4.
    """
    temperature = number("temperature", temperature, above=0)
    value = as_float64(logits, name="logits", dims=2)
    return like(temperature * (value / temperature).logsumexp(dim=1), logits)


@measurement
def maximum_logit(logits: Float[ArrayT, "points classes"]) -> Float64[ArrayT, " points"]:
    """Return the largest logit of each point.

    Parameters
    ----------
    logits
        Logits, shape (points, classes), float32 or float64.

    References
    ----------
    Hendrycks et al. 2022, Scaling out-of-distribution detection for real-world settings.
    """
    return like(as_float64(logits, name="logits", dims=2).amax(dim=1), logits)


@measurement
def neighbour_confidence(
    train_latent: Float[Array, "train width"],
    latent: Float[ArrayT, "points width"],
    *,
    k: int = 50,
    normalise: bool = True,
) -> Float64[ArrayT, " points"]:
    """Return minus the distance of each point to its k-th nearest training point.

    Parameters
    ----------
    train_latent, latent
        Latents of training points and of the points to judge, float32 or float64.
    k
        Rank of the neighbour, at most the number of training points.
    normalise
        Whether every latent is first divided by its norm, as in the paper; latents of norm zero are then
        refused.

    Raises
    ------
    ValueError
        If the arrays are invalid, widths differ, ``k`` is out of range, or a latent has norm zero.

    References
    ----------
    Sun et al. 2022, Out-of-distribution detection with deep nearest neighbors.
    """
    train, points = as_points(train_latent, name="train_latent"), as_points(latent)
    points = points.to(train.device)
    _same_width(train, points)
    k = whole("k", k, most=len(train), of=f"{len(train)} points of train_latent")
    if flag("normalise", normalise):
        train, points = _unit(train, "train_latent"), _unit(points, "latent")
    result = -kth_among(points, train, k)
    return like(result.to(latent.device) if isinstance(latent, Tensor) else result, latent)


class Distances(NamedTuple):
    """Scores by Mahalanobis distance.

    Attributes
    ----------
    confidence
        Minus the squared distance to the nearest class, with ``relative`` plus that to all training points;
        same kind of array as the latents.
    dead
        Number of nodes left out because they are constant over the training points.
    nearest
        Squared distance to the nearest class, float64; same kind of array as the latents.
    """

    confidence: Array
    dead: int
    nearest: Array


@measurement
def mahalanobis_detection(
    train_latent: Float[Array, "train width"],
    train_label: Integer[Array, " train"],
    latent: Float[ArrayT, "points width"],
    *,
    covariance: Covariance = "tied",
    relative: bool = False,
    shrinkage: float = 0.0,
    drop_dead: bool = False,
) -> Distances:
    r"""Return minus the squared Mahalanobis distance of each point to the nearest class.

    Parameters
    ----------
    train_latent, train_label
        Latents and classes of the training points.
    latent
        Latents to judge.
    covariance
        Covariance of the Gaussians. ``"tied"``: one for all classes, within them, averaged over points.
        ``"class"``: one per class.
    relative
        Whether the distance to a single Gaussian of all training points is subtracted.
    shrinkage
        Shrinkage from 0 to 1: a covariance S becomes (1 - shrinkage) S + shrinkage (tr S / width) I, in
        standardised units.
    drop_dead
        Whether nodes that are constant over the training points are left out and counted; if not, they are
        refused.

    Raises
    ------
    ValueError
        If the arrays are invalid, widths differ, a node is constant and not dropped, or a covariance is
        singular (named).

    Notes
    -----
    :math:`-\min_c (z-\mu_c)^\top\Sigma^{-1}(z-\mu_c)`, with :math:`\Sigma_c` in place of :math:`\Sigma` for
    ``"class"``; relative: plus :math:`(z-\mu)^\top\Sigma_0^{-1}(z-\mu)` with mean and covariance of all
    training points. Covariances are maximum likelihood (divided by the number of points). Nodes are
    standardised first, which without shrinkage changes nothing; nothing is added to variances.

    References
    ----------
    Lee et al. 2018, Eq. 1 and 2 (tied); Ren et al. 2021, A simple fix to Mahalanobis distance for improving
    near-OOD detection, Eq. 2 (relative).
    """
    choice("covariance", covariance, Covariance)
    shrinkage, relative = number("shrinkage", shrinkage, least=0, most=1), flag("relative", relative)
    train, points = as_points(train_latent, name="train_latent"), as_points(latent)
    points = points.to(train.device)
    _same_width(train, points)
    groups = group(as_labels(train_label, train, name="train_label"))
    low, high = train.amin(dim=0), train.amax(dim=0)
    alive = high - low > 8 * EPSILON * torch.maximum(low.abs(), high.abs())
    dead = int((~alive).sum())
    if dead and not flag("drop_dead", drop_dead):
        nodes = torch.nonzero(~alive).flatten()[:10].tolist()
        raise ValueError(
            f"{dead} nodes of train_latent take one value, {nodes} first: they have no Gaussian; leave them "
            "out, as drop_dead=True does"
        )
    if dead == train.shape[1]:
        raise Undefined("train_latent: every node takes one value")
    train, points = _standardised(train, points, alive if dead else None)
    mean = group_means(train, groups)
    nearest = points.new_full((len(points),), torch.inf)
    within = None
    if covariance == "tied":
        within = _scatter(train, mean, groups.index)
        nearest = _to_nearest(points, mean, _factor(within, len(train), shrinkage, "within classes"))
    else:
        for position, value in enumerate(groups.value.tolist()):
            own = train[groups.index == position].sub_(mean[position])
            factor = _factor(_product(own), len(own), shrinkage, f"of class {value}")
            nearest = torch.minimum(nearest, _squared(points - mean[position], factor))
    if relative:
        between = (mean * groups.count[:, None]).T @ mean
        total = _product(train) if within is None else within + between
        factor = _factor(total, len(train), shrinkage, "of all training points")
        confidence = _squared(points, factor) - nearest
    else:
        confidence = -nearest
    device = latent.device if isinstance(latent, Tensor) else "cpu"
    confidence, nearest = (like(value.to(device), latent) for value in (confidence, nearest))
    return Distances(confidence, dead, nearest)


def _standardised(train: Tensor, points: Tensor, alive: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both, without dead nodes, minus the training points' mean and over their sd."""
    if alive is not None:
        train, points = train[:, alive], points[:, alive]
    location = train.mean(dim=0)
    train, points = train - location, points - location
    scale = torch.linalg.vector_norm(train, dim=0) / len(train) ** 0.5
    rest = train.div_(scale).mean(dim=0)
    return train.sub_(rest), points.div_(scale).sub_(rest)


def _scatter(train: Tensor, mean: Tensor, index: Tensor) -> Tensor:
    """Return the sum over points of the outer product of (point - mean of its class) with itself."""
    total, size = train.new_zeros(train.shape[1], train.shape[1]), points_at_once(train)
    with threads_for(min(size, len(train)) * total.numel()):
        for part, where in zip(train.split(size), index.split(size), strict=True):
            deviation = part - mean[where]
            total.addmm_(deviation.T, deviation)
    return total


def _product(deviation: Tensor) -> Tensor:
    with threads_for(deviation.numel() * deviation.shape[1]):
        return deviation.T @ deviation


def _to_nearest(points: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return the squared distance of each point to the nearest mean, all with one covariance.

    Points and means are whitened once, not each difference: that rounds no more than their standardisation.
    """
    centres = _whitened(mean, factor).T
    blocks = _whitened(points, factor).T.split(rows_at_once(len(mean), points.device))
    mode = "donot_use_mm_for_euclid_dist"
    apart = [torch.cdist(block, centres, compute_mode=mode).amin(dim=1) for block in blocks]
    return torch.cat(apart).square_()


def _factor(scatter: Tensor, count: int, shrinkage: float, which: str) -> Tensor:
    """Return the Cholesky factor of the covariance, the scatter over a count; Undefined where singular."""
    covariance, width = scatter / count, len(scatter)
    diagonal = covariance.diagonal()
    if shrinkage > 0:
        isotropic = diagonal.mean()
        covariance *= 1 - shrinkage
        diagonal += shrinkage * isotropic
    sd = diagonal.sqrt()
    if (shrinkage > 0 or count > width) and bool((sd > 0).all()):
        factor, info = torch.linalg.cholesky_ex(covariance / sd / sd[:, None])
        if int(info) == 0 and float(factor.diagonal().min()) > (10 * width * EPSILON) ** 0.5:
            return sd[:, None] * factor
    raise Undefined(
        f"train_latent: the covariance {which} is singular: {count} points in {width} dimensions; pass "
        "shrinkage above 0, or fewer dimensions"
    )


def _squared(deviation: Tensor, factor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_whitened(deviation, factor), dim=0).square_()


def _whitened(deviation: Tensor, factor: Tensor) -> Tensor:
    """Return the points over the Cholesky factor, shape (width, points)."""
    with threads_for(deviation.numel() * len(factor) / 2):
        return torch.linalg.solve_triangular(factor, deviation.T, upper=False)


def _same_width(train: Tensor, points: Tensor) -> None:
    if train.shape[1] != points.shape[1]:
        raise ValueError(f"train_latent has width {train.shape[1]}; latent has width {points.shape[1]}")


def _unit(points: Tensor, name: str) -> Tensor:
    norm = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    if bool((norm == 0).any()):
        row = int((norm == 0).flatten().nonzero()[0])
        raise ValueError(f"{name} has norm zero at index {row}: it has no direction; pass normalise=False")
    return points / norm
