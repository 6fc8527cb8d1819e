"""Whether predicted probabilities are the shares of right predictions that they claim to be."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch.nn.functional import one_hot

from lpc.arrays import Array, as_float64, as_labels
from lpc.numerics import measurement

TOLERANCE = 1e-5
"""How far from 1 the probabilities of a point may add up: float32 softmax stays below it."""


@measurement
def expected_calibration_error(
    probability: Float[Array, "points classes"],
    label: Integer[Array, " points"],
    *,
    bins: int = 15,
    norm: Literal["l1", "max"] = "l1",
) -> float:
    r"""Return the ECE: how far top-label confidence is from accuracy, over bins of confidence.

    Parameters
    ----------
    probability
        One row a point, not negative, adding up to 1 within 1e-5; float32 or float64. Not logits.
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
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected 1 or more")
    if norm not in ("l1", "max"):
        raise ValueError(f"norm is {norm!r}; expected 'l1' or 'max'")
    share = as_float64(probability, name="probability", dims=2)
    target = as_labels(label, share)
    classes = share.shape[1]
    if classes < 2:
        raise ValueError(f"probability has shape {tuple(share.shape)}; expected 2 or more classes")
    outside = torch.nonzero((share < 0).any(dim=1) | ((share.sum(dim=1) - 1).abs() > TOLERANCE)).flatten()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"{len(outside)} rows of probability are no probabilities; row {row} has minimum "
            f"{float(share[row].min()):.6g} and sum {float(share[row].sum()):.6g}. Take the softmax of logits"
        )
    outside = torch.nonzero((target < 0) | (target >= classes)).flatten()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"{len(outside)} labels are out of range; label {int(target[row])} is at index {row}, expected "
            f"0 to {classes - 1}"
        )

    confidence = share.amax(dim=1).clamp(max=1.0)
    gap = (share.argmax(dim=1) == target).double() - confidence
    edges = torch.arange(1, bins, dtype=torch.float64, device=share.device) / bins
    member = one_hot(torch.bucketize(confidence, edges), bins).double()
    total = (member.T @ gap).abs()
    if norm == "max":
        return float((total / member.sum(dim=0).clamp(min=1)).max())
    return float(total.sum()) / len(gap)
