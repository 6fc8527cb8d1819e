"""Whether predicted probabilities are the shares of right predictions that they claim to be."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import Array, as_labels, floats, group_sums, rows_at_once
from lpc.computing.numerics import measurement
from lpc.options import choice, whole

Norm = Literal["l1", "max"]
TOLERANCE = 1e-5
"""How far from 1 the probabilities of a point may add up: float32 softmax stays below it."""


@measurement
def expected_calibration_error(
    probability: Float[Array, "points classes"],
    label: Integer[Array, " points"],
    *,
    bins: int = 15,
    norm: Norm = "l1",
) -> float:
    r"""Return the ECE: how far top-label confidence is from accuracy, over bins of confidence.

    Parameters
    ----------
    probability
        One row per point, not negative, adding up to 1 within 1e-5; float32 or float64. Not logits.
    label
        From 0 to classes - 1. A point is right where its largest probability (of equal ones the first) is
        its label's.
    bins
        Number of bins of equal width: ``(j / bins, (j + 1) / bins]``, so that a confidence on an edge is in
        the lower bin and 1 in the last. Empty bins count nothing.
    norm
        ``"l1"``: the mean over points, the expected calibration error. ``"max"``: the largest of any bin.

    Returns
    -------
    float
        From 0 to 1, computed in float64. Above 0 by chance where bins hold few points, even when the
        probabilities are right.

    Raises
    ------
    ValueError
        Invalid arrays, rows that are no probabilities, labels out of range, fewer than one bin.

    Notes
    -----
    :math:`\mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|`, with the share of right
    predictions and the mean confidence of the bin's points; :math:`\max_b` for ``"max"``.

    References
    ----------
    Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, Eqs. 3 and 5.
    """
    bins = whole("bins", bins)
    choice("norm", norm, Norm)
    share = floats(probability, name="probability", dims=2)
    target = as_labels(label, share)
    classes = share.shape[1]
    if classes < 2:
        raise ValueError(f"probability has shape {tuple(share.shape)}; expected 2 or more classes")
    outside = torch.nonzero((target < 0) | (target >= classes)).flatten()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"{len(outside)} labels are out of range; label {int(target[row])} is at index {row}, expected "
            f"0 to {classes - 1}"
        )
    edges = torch.arange(1, bins, dtype=torch.float64, device=share.device) / bins
    size = rows_at_once(classes, share.device)
    parts = [_gaps(*part) for part in zip(share.split(size), target.split(size), strict=True)]
    confidence, gap, improper = (torch.cat(values) for values in zip(*parts, strict=True))
    if bool(improper.any()):
        row = int(improper.nonzero()[0])
        values = share[row].to(torch.float64)
        raise ValueError(
            f"{int(improper.sum())} rows of probability are no probabilities; row {row} has minimum "
            f"{float(values.min()):.6g} and sum {float(values.sum()):.6g}. Take the softmax of logits"
        )
    index = torch.bucketize(confidence, edges)
    total = group_sums(gap[:, None], index, bins)[:, 0].abs()
    if norm == "max":
        return float((total / torch.bincount(index, minlength=bins).clamp(min=1)).max())
    return float(total.sum()) / len(gap)


def _gaps(
    share: Float[Tensor, "points classes"], target: Int64[Tensor, " points"]
) -> tuple[Float64[Tensor, " points"], Float64[Tensor, " points"], Bool[Tensor, " points"]]:
    """Return confidence, right minus confidence, and whether the row is no distribution."""
    share = share.to(torch.float64)
    largest, predicted = share.max(dim=1)
    confidence = largest.clamp(max=1.0)
    improper = (share < 0).any(dim=1) | ((share.sum(dim=1) - 1).abs() > TOLERANCE)
    return confidence, (predicted == target).double() - confidence, improper
