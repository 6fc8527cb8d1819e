"""Where the pull of gamma and the push of the classifier balance, and how far a budget can carry gamma."""

from __future__ import annotations

import math

import numpy as np

from lpc.schedules import gamma as gamma_in
from lpc.specs import TrainSpec

LOST_STEPS = 10
"""A logit gap of fewer steps of the classifier's bias than this cannot be read out."""


def logit_gap(gamma: float, *, classes: int, separation: float) -> float:
    r"""Return the gap between the true and any other logit of a free latent at equilibrium.

    Notes
    -----
    For a symmetric classifier without bias, whose weight vectors are all :math:`D` apart, the gap
    :math:`g` solves :math:`g\,(e^g + K - 1) = K D^2 / (4\gamma)`: Eq. 16 with
    :math:`z = \alpha(w_y - \bar w)`, :math:`g = \alpha D^2 / 2` and
    :math:`2\gamma\alpha = K / (e^g + K - 1)`. gamma is in Eq. 3's convention.

    Parameters
    ----------
    gamma
        Weight of the squared norm.
    classes
        K, 2 or more.
    separation
        D, the distance between two weight vectors.

    References
    ----------
    LPC 2024, Eqs. 15 and 16; the closed form is ours.
    """
    from scipy.optimize import brentq

    if gamma <= 0 or separation <= 0 or classes < 2:
        raise ValueError(
            f"gamma={gamma}, separation={separation}, classes={classes}; "
            "expected gamma and separation above 0 and 2 or more classes"
        )
    target = math.log(classes) + 2 * math.log(separation) - math.log(4 * gamma)
    others = math.log(classes - 1)

    def too_large(log_gap: float) -> float:
        return log_gap + float(np.logaddexp(math.exp(log_gap), others)) - target

    above = min(target - math.log(classes), math.log(max(1.0, target)))  # e^g + K - 1 is at least K, and e^g
    below = target - float(np.logaddexp(math.exp(above), others))
    slack = 1e-9 * (1 + abs(target))  # bounds that are equal may be rounded past each other
    return math.exp(brentq(too_large, below - slack, above + slack, xtol=1e-15))


def radius(gamma: float, *, classes: int, separation: float) -> float:
    r"""Return the norm of a free latent at equilibrium (LPC Eq. 16).

    Parameters
    ----------
    gamma
        The penalty's weight in the convention of Eq. 3: summed over the nodes.
    classes
        Number of classes, K.
    separation
        Distance D of two of the classifier's weight vectors.

    Notes
    -----
    :math:`\Delta = \alpha\,\lVert w_y - \bar w\rVert` with :math:`\alpha = 2g/D^2` and, for a simplex,
    :math:`\lVert w_y - \bar w\rVert = D\sqrt{(K-1)/(2K)}`.
    """
    gap = logit_gap(gamma, classes=classes, separation=separation)
    return 2 * gap / separation * math.sqrt((classes - 1) / (2 * classes))


def reachable_separation(*, width: int, learning_rate: float, steps: int) -> float:
    r"""Return the farthest apart that AdamW can move two weight vectors from zero.

    Parameters
    ----------
    width
        Nodes of the latent, P.
    learning_rate
        Of the classifier.
    steps
        Updates of the weights, T.

    Notes
    -----
    AdamW moves a weight by about the learning rate a step, so two vectors of P weights end about
    :math:`D = 2\sqrt P\,\eta T` apart at most. Gradients that keep growing give longer steps (up to
    :math:`\sqrt{(1-\beta_1)^2/(1-\beta_2)}` times the rate in the extreme): a budget, not a strict bound.
    """
    if width < 1 or learning_rate <= 0 or steps < 1:
        raise ValueError(
            f"width={width}, learning_rate={learning_rate}, steps={steps}; expected all positive"
        )
    return 2 * math.sqrt(width) * learning_rate * steps


def carried_gamma(*, gap: float, classes: int, width: int, learning_rate: float, steps: int) -> float:
    """Return the largest gamma at which a budget's classifier can still hold a logit gap.

    Parameters
    ----------
    gap
        The logit gap asked for; below the classifier's bias differences the readout is lost.
    classes, width, learning_rate, steps
        Of the run; the learning rate is the classifier's, which the paper does not decay.
    """
    if gap <= 0:
        raise ValueError(f"gap is {gap}; expected a positive number")
    separation = reachable_separation(width=width, learning_rate=learning_rate, steps=steps)
    return classes * separation**2 / (4 * gap * (math.exp(gap) + classes - 1))


def bias_sd(*, learning_rate: float, classes: int, batch_size: int) -> float:
    r"""Return the standard deviation of a classifier's biases that have nothing to learn.

    Notes
    -----
    Where logit gaps are small the softmax is :math:`1/K + b_k/K`, and a batch of B points, its classes drawn
    at random, gives a bias the gradient :math:`b_k/K` with noise of variance :math:`(K-1)/(K^2 B)`. AdamW
    divides by the noise: every step is :math:`-\eta\sqrt{B/(K-1)}\,b_k` and noise of sd :math:`\eta`, whose
    stationary variance is :math:`\tfrac{\eta}{2}\sqrt{(K-1)/B}`. It falls with the learning rate only as its
    root, where the logit gap at a large gamma falls as its square.

    Parameters
    ----------
    learning_rate, batch_size
        Of the run; the learning rate is the classifier's, which the paper does not decay.
    classes
        K, 2 or more, equally frequent.
    """
    if learning_rate <= 0 or batch_size < 1 or classes < 2:
        raise ValueError(
            f"learning_rate={learning_rate}, classes={classes}, batch_size={batch_size}; "
            "expected a positive rate, 2 or more classes and 1 or more points a batch"
        )
    return math.sqrt(learning_rate / 2 * math.sqrt((classes - 1) / batch_size))


def _last_gamma(train: TrainSpec) -> float:
    return gamma_in(train.epochs - 1, train)


def _holds(train: TrainSpec) -> bool:
    """Whether the law is about such a run: the squared norm against logits that grow with the latent."""
    return train.penalty == "squared_norm" and train.objective not in ("arcface", "cosface")


def _share(train: TrainSpec, width: int) -> float:
    """Eq. 3's gamma over the spec's."""
    return 1 / width if train.penalty_reduction == "mean" else 1.0


def readout_margin(train: TrainSpec, *, width: int, classes: int, steps: int) -> float:
    """Return how many standard deviations of the biases the largest logit gap is that a budget can hold.

    The gap is :func:`logit_gap` at :func:`reachable_separation` and the last gamma; the deviation is
    :func:`bias_sd`.

    Notes
    -----
    The separation is a bound that runs stay below, so one deviation is not enough. In 87 runs on digits (IB
    and NarrowIB, learning rates 1e-3 to 2e-2, batches of 32 and 128, 100 to 400 epochs, gamma from 10 to 1e8)
    all with a margin below 50 lost their readout or ended at chance, and all above 53 kept it.

    Parameters
    ----------
    train
        Of the run; its penalty is the squared norm.
    width
        Nodes of the latent.
    classes
        Of the data set.
    steps
        Optimizer steps of the whole run.
    """
    if train.penalty != "squared_norm":
        raise ValueError(f"TrainSpec.penalty is {train.penalty!r}; expected 'squared_norm'")
    if not _holds(train):
        raise ValueError(
            f"TrainSpec.objective is {train.objective!r}, whose logits do not shrink with latents"
        )
    rate, gamma = train.learning_rate, _last_gamma(train) * _share(train, width)
    separation = reachable_separation(width=width, learning_rate=rate, steps=steps)
    gap = logit_gap(gamma, classes=classes, separation=separation)
    return gap / bias_sd(learning_rate=rate, classes=classes, batch_size=train.batch_size)


def budget_warning(train: TrainSpec, *, width: int, classes: int, steps: int) -> str | None:
    """Return a warning where gamma ends so high that no classifier can read the latents, else None.

    The largest logit gap that the budget can hold is then less than :data:`LOST_STEPS` steps of the
    classifier's bias. No warning is no promise: the limit lies far below the margin at which runs on digits
    lost their readout (:func:`readout_margin`; there all 27 runs under the limit ended at chance), because it
    is to hold for any network.

    Parameters
    ----------
    train
        Of the run; None is returned where its penalty is not the squared norm, and for ``arcface`` and
        ``cosface``, whose logits do not shrink with the latents.
    width, classes, steps
        As in :func:`readout_margin`.
    """
    if not _holds(train):
        return None
    rate, batch, share = train.learning_rate, train.batch_size, _share(train, width)
    wander = bias_sd(learning_rate=rate, classes=classes, batch_size=batch)
    gap = wander * readout_margin(train, width=width, classes=classes, steps=steps)
    if gap >= LOST_STEPS * rate:
        return None
    carried = carried_gamma(gap=2.0, classes=classes, width=width, learning_rate=rate, steps=steps) / share
    return (
        f"gamma ends at {_last_gamma(train):.3g}, where {steps:,} steps at learning rate {rate:g} and "
        f"{width} nodes hold a logit gap of at most {gap:.2g}: the biases wander by {wander:.2g}, "
        f"so the readout will be lost. At a gap of 2 this budget carries gamma to {carried:.2g}"
    )
