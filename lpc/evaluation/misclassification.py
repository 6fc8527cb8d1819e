"""Error detection by confidence: ROC, precision-recall and risk-coverage."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lpc.arrays import Array, ArrayT, Convention, as_flags, as_float64, check_convention, like
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, number


def _checked(confidence: Array, correct: Array) -> tuple[Float64[Tensor, " points"], Bool[Tensor, " points"]]:
    """Return both as tensors on the CPU; ValueError if no metric of this file is defined."""
    score = as_float64(confidence, name="confidence", dims=1).cpu()
    right = as_flags(correct, score, name="correct")
    positive, negative = int(right.sum()), int((~right).sum())
    if positive == 0 or negative == 0:
        raise ValueError(
            f"{positive} predictions are right and {negative} wrong; expected some of both in correct"
        )
    if bool((score == score[0]).all()):
        raise ValueError(
            f"every confidence is {float(score[0])}: it ranks nothing. Compute it in float64, or use a "
            "confidence that does not saturate"
        )
    return score, right


def _accepted(
    score: Float64[Tensor, " points"], positive: Bool[Tensor, " points"]
) -> tuple[Int64[np.ndarray, " thresholds"], Int64[np.ndarray, " thresholds"]]:
    """Return the numbers of positives and negatives at or above each distinct score, highest score first."""
    value, index = torch.unique(score, return_inverse=True)
    counts = [torch.bincount(index[kind], minlength=len(value)) for kind in (positive, ~positive)]
    above, false = (count.flip(0).cumsum(0).numpy() for count in counts)
    return above, false


@measurement
def misclassification_auroc(
    confidence: Float[Array, " points"], correct: Bool[Array, " points"], *, convention: Convention = "paper"
) -> float:
    r"""Return the probability that a correct prediction has a higher confidence than a wrong one.

    Parameters
    ----------
    confidence
        Confidence of each prediction, shape (points,), float32 or float64; higher is more confident.
    correct
        Whether each prediction is correct, shape (points,).
    convention
        Definition of the area. ``"paper"``: the area under the ROC curve with correct predictions as
        positives. ``"released"``: the release's sum over 101 thresholds, whose weights add up to 1.01; from 0
        to 1.01.

    Raises
    ------
    ValueError
        If the arrays are invalid, all predictions are correct or all are wrong, or the confidence is
        constant.

    Notes
    -----
    ``paper``: :math:`P(s_+ > s_-) + \frac12 P(s_+ = s_-)`, the trapezoids under the curve.

    ``released``: :math:`\sum_{j=0}^{100} 0.01\, P(s_+ > q_{j/100})` with :math:`q_x` the x-quantile of the
    wrong predictions' confidences, linear between them (NumPy's). It is confidences that are interpolated,
    not rates: with few wrong predictions the second decimal differs from that of a sum along the ROC curve.
    A perfect ranking has 1.01, a random one about 0.505.

    References
    ----------
    LPC 2024, Table 2, column AUROC, and its released code.
    """
    check_convention(convention)
    score, right = _checked(confidence, correct)
    if convention == "released":
        better, worse = np.sort(score[right].numpy()), score[~right].numpy()
        threshold = np.quantile(worse, np.arange(101) / 100)
        passed = len(better) - np.searchsorted(better, threshold, side="right")
        return int(passed.sum()) / (100 * len(better))
    above, false = _accepted(score, right)
    above, false = np.concatenate([[0], above]), np.concatenate([[0], false])
    twice = int((np.diff(false) * (above[1:] + above[:-1])).sum())
    return twice / (2 * int(above[-1]) * int(false[-1]))


@measurement
def misclassification_aupr(
    confidence: Float[Array, " points"],
    correct: Bool[Array, " points"],
    *,
    positive: Literal["success", "error"],
) -> float:
    r"""Return the area under the precision-recall curve, as average precision.

    Parameters
    ----------
    confidence
        Confidence of each prediction, shape (points,), float32 or float64; higher is more confident.
    correct
        Whether each prediction is correct, shape (points,).
    positive
        Predictions to find: ``"success"``, correct ones by high confidence, or ``"error"``, wrong ones by low
        confidence.

    Returns
    -------
    float
        Area of at most 1; without any ranking about the share of the positives (1 minus the accuracy for
        errors).

    Raises
    ------
    ValueError
        As in :func:`misclassification_auroc`, or if ``positive`` is unknown.

    Notes
    -----
    :math:`\sum_t (R_t - R_{t-1}) P_t` over the distinct confidences t, points of equal confidence accepted
    together and nothing interpolated: scikit-learn's ``average_precision_score``.

    References
    ----------
    Hendrycks and Gimpel 2017 (AUPR Succ and AUPR Err).
    """
    choice("positive", positive, ("success", "error"))
    score, right = _checked(confidence, correct)
    above, false = _accepted(score, right) if positive == "success" else _accepted(-score, ~right)
    gain = np.diff(above, prepend=0) / above[-1]
    return float((gain * (above / (above + false))).sum())


@measurement
def misclassification_fpr(
    confidence: Float[Array, " points"], correct: Bool[Array, " points"], *, at_tpr: float = 0.95
) -> float:
    r"""Return the share of wrong predictions accepted along with 95 % of the correct ones: FPR at 95 % TPR.

    Parameters
    ----------
    confidence
        Confidence of each prediction, shape (points,), float32 or float64; higher is more confident.
    correct
        Whether each prediction is correct, shape (points,).
    at_tpr
        Share of the correct predictions to accept, above 0 and at most 1.

    Returns
    -------
    float
        Share from 0 to 1, lower is better; about ``at_tpr`` without any ranking.

    Raises
    ------
    ValueError
        As in :func:`misclassification_auroc`, or if ``at_tpr`` is out of range.

    Notes
    -----
    The threshold is the highest confidence t with which at least ``at_tpr`` of the right predictions have
    :math:`s \ge t`; points at t are accepted, also the wrong ones. Nothing is interpolated.

    References
    ----------
    Liang et al. 2018; Corbière et al. 2019 for misclassification.
    """
    at_tpr = number("at_tpr", at_tpr, above=0, most=1)
    above, false = _accepted(*_checked(confidence, correct))
    first = int(np.argmax(above / above[-1] >= at_tpr))
    return float(false[first] / false[-1])


class RiskCoverage(NamedTuple):
    """Error rate among the most confident predictions, for every number of them.

    Attributes
    ----------
    coverage
        Share of points kept, k / n for k from 1 to n, shape (points,).
    risk
        Share of wrong predictions among the k most confident, shape (points,); the last is 1 - accuracy.
    """

    coverage: Array
    risk: Array


@measurement
def risk_coverage_curve(
    confidence: Float[ArrayT, " points"], correct: Bool[Array, " points"]
) -> RiskCoverage:
    """Return the error rate among the k most confident predictions, for every k.

    Parameters
    ----------
    confidence
        Confidence of each prediction, shape (points,), float32 or float64; higher is more confident.
    correct
        Whether each prediction is correct, shape (points,).

    Returns
    -------
    RiskCoverage
        Coverage and risk, float64, same kind of array as ``confidence``.

    Raises
    ------
    ValueError
        As in :func:`misclassification_auroc`.

    Notes
    -----
    Where the k-th confidence is shared by several points, the risk is its mean over all orders of these
    points: each of them counts as the share of wrong ones among them.

    References
    ----------
    El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017.
    """
    score, right = _checked(confidence, correct)
    coverage = torch.arange(1, len(score) + 1, dtype=torch.float64, device=score.device) / len(score)
    device = confidence.device if isinstance(confidence, Tensor) else "cpu"
    risk = _risk(score, right).to(device)
    return RiskCoverage(like(coverage.to(device), confidence), like(risk, confidence))


def _risk(score: Float64[Tensor, " points"], right: Bool[Tensor, " points"]) -> Float64[Tensor, " points"]:
    _, index, count = torch.unique(score, return_inverse=True, return_counts=True)
    wrong = torch.bincount(index[~right], minlength=len(count)).double() / count
    wrong = torch.repeat_interleave(wrong, count).flip(0).cumsum(0)
    return wrong / torch.arange(1, len(score) + 1, dtype=torch.float64, device=score.device)


class RiskCoverageArea(NamedTuple):
    """Area under the risk-coverage curve, lower is better.

    Attributes
    ----------
    aurc
        Mean risk over all coverages. It falls with the error rate as well as with a better ranking.
    excess
        E-AURC: ``aurc`` minus that of the best order, with all wrong predictions last. At least 0.
    """

    aurc: float
    excess: float


@measurement
def risk_coverage_area(
    confidence: Float[Array, " points"], correct: Bool[Array, " points"]
) -> RiskCoverageArea:
    r"""Return the area under :func:`risk_coverage_curve`, and the part that the best order would remove.

    Parameters
    ----------
    confidence
        Confidence of each prediction, shape (points,), float32 or float64; higher is more confident.
    correct
        Whether each prediction is correct, shape (points,).

    Raises
    ------
    ValueError
        As in :func:`misclassification_auroc`.

    Notes
    -----
    :math:`\mathrm{AURC} = \frac1n \sum_{k=1}^n r_k` with :math:`r_k` the risk at coverage k / n. The best
    order of n points with m wrong ones has :math:`\frac1n \sum_{k > n - m} (k - n + m) / k`. In expectation
    over random orders the AURC is the error rate m / n.

    References
    ----------
    Geifman, Uziel and El-Yaniv 2019.
    """
    score, right = _checked(confidence, correct)
    area, best = float(_risk(score, right).mean()), float(_risk(right.double(), right).mean())
    return RiskCoverageArea(area, max(0.0, area - best))
