r"""Automatic gamma: as large as the classifier's weights can carry at a logit gap, while training."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from lpc.arrays import Array, as_float64
from lpc.computing.options import number


def separation(weight: Float[Array, "classes width"]) -> float:
    r"""Return the root mean square distance of two weight vectors of a classifier.

    Parameters
    ----------
    weight
        Weight of the classifier, shape (classes, width).

    Notes
    -----
    :math:`D^2 = \frac{2}{K - 1}\sum_k \lVert w_k - \bar w\rVert^2`.
    """
    rows = as_float64(weight, name="weight", dims=2)
    if len(rows) < 2:
        raise ValueError(f"weight has shape {tuple(rows.shape)}; expected 2 or more classes")
    spread = float((rows - rows.mean(dim=0)).square().sum())
    return math.sqrt(2 * spread / (len(rows) - 1))


def gap_gamma(weight: Float[Array, "classes width"], *, gap: float) -> float:
    r"""Return the gamma at which free latents of a symmetric classifier have a logit gap.

    Parameters
    ----------
    weight
        Weight of the classifier, shape (classes, width).
    gap
        Difference between the true logit and any other, above 0.

    Notes
    -----
    The equilibrium of :func:`~lpc.equilibrium.logit_gap` solved for gamma:
    :math:`\gamma = K D^2 / (4 g (e^g + K - 1))`, with D the :func:`separation` of the weights.
    """
    gap = number("gap", gap, above=0)
    classes = len(as_float64(weight, name="weight", dims=2))
    return classes * separation(weight) ** 2 / (4 * gap * (math.exp(gap) + classes - 1))


class GapSchedule:
    r"""A gamma that follows the classifier: it keeps the logit gap where the readout cannot be lost.

    Parameters
    ----------
    gap
        Logit gap to hold at equilibrium, above 0.
    initial
        First value of gamma.
    factor
        Largest factor by which gamma grows from one update to the next, above 1.
    maximum
        Largest value of gamma.

    Attributes
    ----------
    gamma
        Current value of gamma.

    Notes
    -----
    An update sets gamma to the smallest of ``factor`` times its previous value, ``maximum`` and
    :func:`gap_gamma` of the current weights: it grows with the square of the weights' distance, and falls
    when they shrink. If the measured gap is below half of ``gap``, latents lag behind the equilibrium or the
    bias decides: gamma is then halved.
    """

    def __init__(
        self, *, gap: float = 2.0, initial: float = 1e-3, factor: float = 2.0, maximum: float = 1e6
    ) -> None:
        self.gap = number("gap", gap, above=0)
        self.gamma = self.initial = number("initial", initial, above=0)
        self.factor = number("factor", factor, above=1)
        self.maximum = number("maximum", maximum, above=0)

    def update(self, weight: Float[Array, "classes width"], *, measured: float) -> float:
        """Update and return gamma from the measured weights and logit gap.

        Parameters
        ----------
        weight
            Current weight of the classifier, shape (classes, width).
        measured
            Measured logit gap: the median over points of the true logit minus the largest other one; NaN:
            unknown.
        """
        carried = gap_gamma(weight, gap=self.gap)
        grown = self.gamma * self.factor
        if math.isfinite(measured) and measured < self.gap / 2:
            grown = self.gamma / 2
        self.gamma = max(min(grown, carried, self.maximum), torch.finfo(torch.float32).tiny)
        return self.gamma
