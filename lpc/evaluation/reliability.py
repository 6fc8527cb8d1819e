"""How confident a classifier is of a prediction, and whether confidence tells right from wrong."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Integer
from scipy.stats import rankdata
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    ArrayT,
    Convention,
    as_flags,
    as_float64,
    as_labels,
    as_points,
    check_convention,
    like,
)


def mahalanobis_confidence(
    train_latent: Float[Array, "train width"],
    train_label: Integer[Array, " train"],
    train_predicted: Integer[Array, " train"],
    latent: Float[ArrayT, "points width"],
    predicted: Integer[Array, " points"],
    *,
    shrinkage: float = 0.0,
) -> Float64[ArrayT, " points"]:
    r"""Return minus the Mahalanobis distance of each point to the Gaussian of its predicted class.

    Parameters
    ----------
    train_latent, train_label, train_predicted
        Training points; the Gaussian of a class is fitted on those of its label that are also predicted so.
    latent, predicted
        The points to judge and the class that the network predicts for each.
    shrinkage
        From 0 to 1: the covariance S of a class becomes (1 - shrinkage) S + shrinkage (tr S / width) I, in
        standardised units. A class needs more than ``width`` points at 0; for wide layers choose more than
        0 and state it.

    Returns
    -------
    array
        Confidence, at most 0, higher is more confident; float64, of the same kind as ``latent``.

    Raises
    ------
    ValueError
        Invalid arrays; a node with one value over the training points; a predicted class without a
        well-classified training point; or a class whose covariance is singular (named).

    Notes
    -----
    :math:`-\sqrt{(z-\mu_c)^\top \Sigma_c^{-1} (z-\mu_c)}` with :math:`\Sigma_c` the maximum-likelihood
    covariance (divided by :math:`n_c`). Each dimension is first divided by its sd over all training points,
    which changes the result only through the shrinkage. Nothing is added to variances. A covariance is
    singular where a pivot of the Cholesky factor of its correlations is at or below
    :math:`(10 P \epsilon)^{1/2}`.

    References
    ----------
    LPC 2024, Section 3.2 and Table 2; Lee et al. 2018.
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage is {shrinkage}; expected 0 to 1")
    train = as_points(train_latent, name="train_latent")
    points = as_points(latent)
    if train.shape[1] != points.shape[1]:
        raise ValueError(f"train_latent has width {train.shape[1]}; latent has width {points.shape[1]}")
    target = as_labels(train_label, train, name="train_label")
    well = target == as_labels(train_predicted, train, name="train_predicted")
    decision = as_labels(predicted, points, name="predicted").to(train.device)

    location = train.mean(dim=0)
    centred = train - location
    scale = centred.square().mean(dim=0).sqrt()
    constant = centred.abs().amax(dim=0) <= 8 * EPSILON * train.abs().amax(dim=0)
    if bool(constant.any()):
        nodes = torch.nonzero(constant).flatten().tolist()
        raise ValueError(
            f"nodes {nodes} of train_latent take one value: they have no Gaussian; leave them out"
        )
    centred = centred / scale
    judged = (points.to(train.device) - location) / scale

    confidence = torch.empty(len(points), dtype=torch.float64, device=train.device)
    for value in decision.unique().tolist():
        member = centred[well & (target == value)]
        chosen = decision == value
        confidence[chosen] = -_distance(member, judged[chosen], shrinkage, value)
    return like(confidence.to(points.device), latent)


def _distance(
    member: Float64[Tensor, "members width"],
    points: Float64[Tensor, "points width"],
    shrinkage: float,
    value: int,
) -> Float64[Tensor, " points"]:
    count, width = member.shape
    if count == 0:
        raise ValueError(f"class {value} is predicted, but no training point of it is well classified")
    mean = member.mean(dim=0)
    mean = mean + (member - mean).mean(dim=0)
    deviation = member - mean
    covariance = deviation.T @ deviation / count
    isotropic = covariance.diagonal().mean() * torch.eye(width, dtype=torch.float64, device=member.device)
    covariance = (1 - shrinkage) * covariance + shrinkage * isotropic
    sd = covariance.diagonal().sqrt()
    singular = shrinkage == 0 and count <= width
    if not singular and bool((sd > 0).all()):
        factor, info = torch.linalg.cholesky_ex(covariance / sd / sd[:, None])
        singular = int(info) != 0 or float(factor.diagonal().min()) <= (10 * width * EPSILON) ** 0.5
        if not singular:
            whitened = torch.linalg.solve_triangular(factor, ((points - mean) / sd).T, upper=False)
            return torch.linalg.vector_norm(whitened, dim=0)
    raise ValueError(
        f"the covariance of class {value} is singular: {count} well-classified training points in {width} "
        "dimensions; pass shrinkage above 0, or fewer dimensions"
    )


def odin_confidence(
    logits: Float[ArrayT, "points classes"], *, temperature: float = 100.0, convention: Convention = "paper"
) -> Float64[ArrayT, " points"]:
    r"""Return the largest probability of the softmax at a temperature, without input perturbation.

    Parameters
    ----------
    logits
        float32 or float64.
    temperature
        Above 0.
    convention
        ``"paper"``: softmax(logits / T). ``"released"``: exp(softmax(logits) / T), normalised.

    Returns
    -------
    array
        Between 1 / classes and 1, higher is more confident; float64, of the same kind as ``logits``.

    Raises
    ------
    ValueError
        Invalid array, fewer than two classes, or a temperature that is not above 0.

    References
    ----------
    LPC 2024, Section 3.2 and Table 2; Liang et al. 2018 (ODIN).
    """
    check_convention(convention)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected above 0")
    value = as_float64(logits, name="logits", dims=2)
    if value.shape[1] < 2:
        raise ValueError(f"logits has shape {tuple(value.shape)}; expected 2 or more classes")
    if convention == "released":
        value = value.softmax(dim=1)
    return like((value / temperature).softmax(dim=1).amax(dim=1), logits)


def misclassification_auroc(confidence: Float[Array, " points"], correct: Bool[Array, " points"]) -> float:
    r"""Return the probability that a right prediction has a higher confidence than a wrong one.

    Parameters
    ----------
    confidence
        Higher is more confident.
    correct
        Whether each prediction is right.

    Raises
    ------
    ValueError
        Invalid arrays, no right or no wrong prediction, or confidence that is the same everywhere.

    Notes
    -----
    The area under the ROC curve with right predictions as positives:
    :math:`P(s_+ > s_-) + \frac12 P(s_+ = s_-)`, from mid-ranks. Scikit-learn's ``roc_auc_score``, not the
    release's 101-point sum, whose weights add up to 1.01.

    References
    ----------
    LPC 2024, Table 2, column AUROC.
    """
    score = as_float64(confidence, name="confidence", dims=1)
    right = as_flags(correct, score, name="correct")
    positive, negative = int(right.sum()), int((~right).sum())
    if positive == 0 or negative == 0:
        raise ValueError(f"{positive} predictions are right and {negative} wrong: the AUROC needs both")
    if bool((score == score[0]).all()):
        raise ValueError(
            f"every confidence is {float(score[0])}: it ranks nothing. Compute it in float64, or use a "
            "confidence that does not saturate"
        )
    rank = rankdata(score.cpu().numpy())
    above = float(rank[right.cpu().numpy()].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)
