"""Calibration: whether predicted probabilities equal the shares of correct predictions."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import Array, as_float64, as_labels, floats, group_sums, rows_at_once
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, whole
from lpc.errors import Undefined

Norm = Literal["l1", "l2", "max"]
TOLERANCE = 1e-5
"""Largest distance of a point's total probability from 1: float32 softmax stays below it."""


@measurement
def expected_calibration_error(
    probability: Float[Array, "points classes"],
    label: Integer[Array, " points"],
    *,
    bins: int = 15,
    norm: Norm = "l1",
) -> float:
    r"""Return the ECE: the gap between top-label confidence and accuracy, averaged over bins of confidence.

    Parameters
    ----------
    probability
        Class probabilities (not logits), shape (points, classes), float32 or float64; non-negative, each row
        summing to 1 within 1e-5.
    label
        Class of each point, from 0 to classes - 1. A point is right if its largest probability (the first of
        equal ones) is its label's.
    bins
        Number of bins of equal width: ``(j / bins, (j + 1) / bins]``, so that a confidence on an edge falls
        into the lower bin and 1 into the last. Empty bins count nothing.
    norm
        Average over bins. ``"l1"``: mean over points, the expected calibration error. ``"l2"``: root mean
        square over points. ``"max"``: the largest gap of a bin.

    Returns
    -------
    float
        Error from 0 to 1, computed in float64. Chance alone makes it positive if bins hold few points, even
        with correct probabilities.

    Raises
    ------
    ValueError
        If the arrays are invalid, rows are no probabilities, labels are out of range, or there is less than
        one bin.

    Notes
    -----
    :math:`\mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|`, with the share of correct
    predictions and the mean confidence of the bin's points; :math:`\sqrt{\sum_b \frac{n_b}{n} (\cdot)^2}`
    for ``"l2"`` and :math:`\max_b` for ``"max"``.

    References
    ----------
    Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, Eqs. 3 and 5.
    """
    choice("norm", norm, Norm)
    means, count = _binned(probability, label, bins)
    return _averaged(means[count > 0, 1].abs(), count[count > 0], norm)


def _averaged(gap: Float64[Tensor, " bins"], count: Int64[Tensor, " bins"], norm: Norm) -> float:
    """Return the calibration error over bins that contain points.

    Parameters
    ----------
    gap
        Absolute mean gap of each bin.
    count
        Number of points in each bin.
    norm
        Average over bins, as in :func:`expected_calibration_error`.
    """
    if norm == "max":
        return float(gap.max())
    share = count.double() / count.sum()
    return float((share * gap).sum()) if norm == "l1" else float((share * gap.square()).sum().sqrt())


class ReliabilityDiagram(NamedTuple):
    """Contents of a reliability diagram, one entry per bin of confidence; NaN for an empty bin.

    Attributes
    ----------
    confidence
        Mean confidence of the bin's points.
    accuracy
        Share of the bin's points that are classified correctly.
    count
        Number of the bin's points.
    """

    confidence: Float64[Tensor, " bins"]
    accuracy: Float64[Tensor, " bins"]
    count: Int64[Tensor, " bins"]


@measurement
def reliability_diagram(
    probability: Float[Array, "points classes"], label: Integer[Array, " points"], *, bins: int = 15
) -> ReliabilityDiagram:
    """Return confidence and accuracy of the points in each bin of confidence.

    Parameters
    ----------
    probability, label, bins
        The arguments of :func:`expected_calibration_error`.

    Raises
    ------
    ValueError
        As in :func:`expected_calibration_error`.

    References
    ----------
    Guo et al. 2017, Figure 1.
    """
    means, count = _binned(probability, label, bins)
    return ReliabilityDiagram(means[:, 0], means.sum(dim=1), count)


def _binned(probability: Array, label: Array, bins: int) -> tuple[Tensor, Tensor]:
    """Return mean confidence and mean gap of each bin, and its number of points."""
    sums, count = _bin_sums(probability, label, bins)
    return sums / count[:, None], count


def _bin_sums(
    probability: Array, label: Array, bins: int
) -> tuple[Float64[Tensor, "bins two"], Int64[Tensor, " bins"]]:
    """Return the sum of confidences, the sum of gaps and the number of points of each bin of confidence.

    Parameters
    ----------
    probability, label, bins
        The arguments of :func:`expected_calibration_error`, with the same errors.
    """
    bins = whole("bins", bins)
    confidence, gap = _confidence_and_gap(probability, label)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    index = torch.bucketize(confidence, edges)
    count = torch.bincount(index, minlength=bins)
    return group_sums(torch.stack([confidence, gap], dim=1), index, bins), count


@measurement
def adaptive_calibration_error(
    probability: Float[Array, "points classes"],
    label: Integer[Array, " points"],
    *,
    bins: int = 15,
    norm: Norm = "l1",
) -> float:
    """Return the calibration error of the top label over bins with equal numbers of points.

    Parameters
    ----------
    probability, label, norm
        The arguments of :func:`expected_calibration_error`.
    bins
        Number of bins, at most the number of points. Points are sorted by confidence and cut into bins whose
        sizes differ by at most one; equal confidences can fall into two bins, in the order of the points.

    Raises
    ------
    ValueError
        As in :func:`expected_calibration_error`.

    References
    ----------
    Nixon et al. 2019, Measuring calibration in deep learning (equal-mass bins).
    """
    choice("norm", norm, Norm)
    confidence, gap = _confidence_and_gap(probability, label)
    bins = whole("bins", bins, most=len(gap), of=f"{len(gap)} points")
    parts = gap[confidence.argsort(stable=True)].tensor_split(bins)
    means = torch.stack([part.mean().abs() for part in parts])
    return _averaged(means, torch.tensor([len(part) for part in parts], device=means.device), norm)


@measurement
def classwise_calibration_error(
    probability: Float[Array, "points classes"], label: Integer[Array, " points"], *, bins: int = 15
) -> float:
    r"""Return the calibration error of every class's probability, averaged over classes.

    Parameters
    ----------
    probability, label, bins
        The arguments of :func:`expected_calibration_error`; the bins are of each class's own probability.

    Raises
    ------
    ValueError
        As in :func:`expected_calibration_error`.

    Notes
    -----
    :math:`\frac1K\sum_k\sum_b \frac{n_{bk}}{n}\,|\bar y_{bk} - \bar p_{bk}|`. A probability of exactly 0
    is in the first bin.

    References
    ----------
    Kull et al. 2019, Beyond temperature scaling, Section 2.
    """
    gaps = _class_bin_gaps(probability, label, bins)
    return float(gaps.abs().sum()) / (len(probability) * len(gaps))


def _class_bin_gaps(probability: Array, label: Array, bins: int) -> Float64[Tensor, "classes bins"]:
    """Return the sum of (label minus probability) in each bin of each class's own probability.

    Parameters
    ----------
    probability, label, bins
        The arguments of :func:`classwise_calibration_error`, with the same errors.
    """
    bins = whole("bins", bins)
    share, target = _checked(probability, label)
    edges = torch.arange(1, bins, dtype=torch.float64, device=share.device) / bins
    gaps = torch.zeros(share.shape[1], bins, dtype=torch.float64, device=share.device)
    for value in range(share.shape[1]):
        column = share[:, value].to(torch.float64).contiguous()
        gap = (target == value).double() - column
        gaps[value] = group_sums(gap[:, None], torch.bucketize(column, edges), bins)[:, 0]
    return gaps


@measurement
def fit_temperature(logits: Float[Array, "points classes"], label: Integer[Array, " points"]) -> float:
    r"""Return the temperature that minimises the cross-entropy of softmax(logits / T).

    Parameters
    ----------
    logits
        Logits of held-out points, not of the training set; shape (points, classes), float32 or float64.
    label
        Class of each point, from 0 to classes - 1.

    Returns
    -------
    float
        Temperature T, above 0; above 1 if the network is too confident.

    Raises
    ------
    ValueError
        If the arrays are invalid, labels are out of range, or there is no finite minimum: every point is
        classified correctly, or the logits of a point are all equal.

    Notes
    -----
    The cross-entropy is convex in :math:`1/T`, with the derivative
    :math:`\mathbb E[\sum_k p_k l_k - l_y]`, whose root is found by Brent's method.

    References
    ----------
    Guo et al. 2017, Section 4.2.
    """
    from scipy.optimize import brentq

    value = as_float64(logits, name="logits", dims=2)
    target = _in_range(as_labels(label, value), value.shape[1])
    value = value - value.amax(dim=1, keepdim=True)
    own = value.gather(1, target[:, None])[:, 0]

    def slope(inverse: float) -> float:
        return float(((value * inverse).softmax(dim=1) * value).sum(dim=1).mean() - own.mean())

    if float(value.min()) == 0.0 or float(own.min()) == 0.0:
        raise Undefined(
            "logits: every point is classified correctly, or all its logits are equal: no temperature is best"
        )
    if slope(0.0) >= 0:
        raise Undefined("logits are on average lowest for the label: the best temperature is infinite")
    high = 1.0 / float(value.abs().mean())
    while slope(high) < 0:
        high *= 2
    return 1 / brentq(slope, 0.0, high, xtol=1e-14 * high, rtol=1e-12)


def _checked(
    probability: Array, label: Array
) -> tuple[Float[Tensor, "points classes"], Int64[Tensor, " points"]]:
    """Return probabilities and labels as tensors; ValueError if they are none."""
    share = floats(probability, name="probability", dims=2)
    target = as_labels(label, share)
    classes = share.shape[1]
    if classes < 2:
        raise ValueError(f"probability has shape {tuple(share.shape)}; expected 2 or more classes")
    _in_range(target, classes)
    size = rows_at_once(classes, share.device)
    improper = torch.cat([_improper(part) for part in share.split(size)])
    if bool(improper.any()):
        row = int(improper.nonzero()[0])
        values = share[row].to(torch.float64)
        raise ValueError(
            f"{int(improper.sum())} rows of probability are no probabilities; row {row} has minimum "
            f"{float(values.min()):.6g} and sum {float(values.sum()):.6g}. Take the softmax of logits"
        )
    return share, target


def _in_range(target: Int64[Tensor, " points"], classes: int) -> Int64[Tensor, " points"]:
    outside = torch.nonzero((target < 0) | (target >= classes)).flatten()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"{len(outside)} labels are out of range; label {int(target[row])} is at index {row}, expected "
            f"0 to {classes - 1}"
        )
    return target


def _improper(share: Float[Tensor, "points classes"]) -> Bool[Tensor, " points"]:
    share = share.to(torch.float64)
    return (share < 0).any(dim=1) | ((share.sum(dim=1) - 1).abs() > TOLERANCE)


def _confidence_and_gap(
    probability: Array, label: Array
) -> tuple[Float64[Tensor, " points"], Float64[Tensor, " points"]]:
    """Return confidence, and correctness minus confidence."""
    share, target = _checked(probability, label)
    size = rows_at_once(share.shape[1], share.device)
    parts = [_gaps(*part) for part in zip(share.split(size), target.split(size), strict=True)]
    confidence, gap = (torch.cat(values) for values in zip(*parts, strict=True))
    return confidence, gap


def _gaps(
    share: Float[Tensor, "points classes"], target: Int64[Tensor, " points"]
) -> tuple[Float64[Tensor, " points"], Float64[Tensor, " points"]]:
    share = share.to(torch.float64)
    largest, predicted = share.max(dim=1)
    confidence = largest.clamp(max=1.0)
    return confidence, (predicted == target).double() - confidence
