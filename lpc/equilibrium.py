"""Balance between the pull of gamma and the push of the classifier, and the gamma that a budget can carry."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lpc.computing.epoch_noise import wander
from lpc.errors import unknown_name
from lpc.schedules.by_spec import gamma as gamma_in
from lpc.specs import BOUNDED_STEPS, TrainSpec

LOST_STEPS = 10
"""Smallest readable logit gap, in steps of the classifier's bias."""
LOST_MARGIN = 87
"""The :func:`readout_margin` below which all 38 runs on digits lost their readout."""


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
        Number of classes K, at least 2.
    separation
        Distance D between two weight vectors of the classifier.

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
        Weight of the penalty in the convention of Eq. 3, summed over the nodes.
    classes
        Number of classes, K.
    separation
        Distance D between two weight vectors of the classifier.

    Notes
    -----
    :math:`\Delta = \alpha\,\lVert w_y - \bar w\rVert` with :math:`\alpha = 2g/D^2` and, for a simplex,
    :math:`\lVert w_y - \bar w\rVert = D\sqrt{(K-1)/(2K)}`.
    """
    gap = logit_gap(gamma, classes=classes, separation=separation)
    return 2 * gap / separation * math.sqrt((classes - 1) / (2 * classes))


def reachable_separation(*, width: int, learning_rate: float, steps: int, classes: int = 2) -> float:
    r"""Return the distance between the classes' weight vectors that AdamW can reach from zero.

    Parameters
    ----------
    width
        Number P of nodes of the latent.
    learning_rate
        Learning rate of the classifier.
    steps
        Number T of weight updates.
    classes
        Number of classes K, at least 2. With 2 the result is the distance of one pair, with more the root
        mean square distance over all pairs.

    Notes
    -----
    AdamW moves a weight by about the learning rate per step, so it ends within :math:`\eta T` of zero. At one
    node the sum of squared differences over all pairs is then at most :math:`4 (\eta T)^2` times the number
    of pairs with different signs, :math:`\lfloor K/2\rfloor\lceil K/2\rceil`: over P nodes the mean is

    .. math:: D^2 \le \frac{8\lfloor K/2\rfloor\lceil K/2\rceil}{K(K-1)}\,P\,(\eta T)^2,

    :math:`2KP/(K-1)\,(\eta T)^2` for even K (Plotkin's bound; sign matrices with balanced columns reach it),
    and :math:`4P(\eta T)^2` for one pair. Gradients that keep growing give longer steps (up to
    :math:`\sqrt{(1-\beta_1)^2/(1-\beta_2)}` times the rate in the extreme, :math:`\sqrt 3` where they grow in
    proportion to the step): a budget, not a strict bound.

    References
    ----------
    Plotkin 1960, Binary codes with specified minimum distance.
    """
    if width < 1 or learning_rate <= 0 or steps < 1 or classes < 2:
        raise ValueError(
            f"width={width}, learning_rate={learning_rate}, steps={steps}, classes={classes}; "
            "expected all positive, and 2 or more classes"
        )
    apart = 8 * (classes // 2) * (-(-classes // 2)) / (classes * (classes - 1))
    return math.sqrt(apart * width) * learning_rate * steps


def carried_gamma(*, gap: float, classes: int, width: int, learning_rate: float, steps: int) -> float:
    """Return the largest gamma at which a budget's classifier can still hold a logit gap.

    Parameters
    ----------
    gap
        Logit gap to hold; once it is smaller than the classifier's bias differences, the readout is lost.
    classes
        Number of classes.
    width
        Number of nodes of the latent.
    learning_rate
        Learning rate of the classifier, which the paper does not decay.
    steps
        Number of optimizer steps of the whole run.
    """
    if gap <= 0:
        raise ValueError(f"gap is {gap}; expected a positive number")
    separation = reachable_separation(width=width, learning_rate=learning_rate, steps=steps, classes=classes)
    return classes * separation**2 / (4 * gap * (math.exp(gap) + classes - 1))


def bias_sd(
    *,
    learning_rate: float,
    classes: int,
    batch_size: int,
    images: int | None = None,
    momentum: float = 0.9,
    at: Literal["epoch end", "any step"] = "epoch end",
) -> float:
    r"""Return the standard deviation of a classifier's biases that have nothing to learn.

    Notes
    -----
    Where logit gaps are small the softmax is :math:`1/K + b_k/K`: a bias's gradient is :math:`b_k/K` and the
    noise of the batch's label counts, of variance :math:`(K-1)/(K^2 B)`. AdamW divides by the noise, so a
    bias relaxes within :math:`\tau = \sqrt{(K-1)/B}/\eta` steps and every step adds noise of sd
    :math:`\eta`.

    *Labels drawn at random*: a walk, of stationary variance :math:`\eta^2\tau/2 =
    \tfrac{\eta}{2}\sqrt{(K-1)/B}`.

    *Permuted epochs*: the counts of an epoch are those of the data set, so the noise of its m batches sums to
    zero and the walk is a bridge. At the ends of epochs, with :math:`\theta = m/\tau`, the share
    :math:`1 - \tfrac{2}{\theta}\tanh\tfrac{\theta}{2}` of the walk's variance remains; inside an epoch
    :math:`\eta^2 m/6` is added where :math:`\tau` is well above m. Both formulas hold for batches of one size
    and without momentum. The returned value corrects for both (:mod:`lpc.computing.epoch_noise`): a smaller
    last batch gives each of its labels more weight, and momentum carries the last steps over the end of the
    epoch.

    Parameters
    ----------
    learning_rate
        Learning rate of the classifier, which the paper does not decay.
    batch_size
        Number of images per batch.
    classes
        Number of classes K, at least 2; they are taken as equally frequent.
    images
        Number of images in an epoch, which is a permutation of them; None: every batch is drawn at random.
    momentum
        First beta of AdamW.
    at
        Moment of measurement: after whole epochs, or the root mean square over all steps.

    Returns
    -------
    float
        Standard deviation in logits: 0 if one batch holds all images, infinity if the rate is too large for a
        stationary state.
    """
    if learning_rate <= 0 or batch_size < 1 or classes < 2 or (images is not None and images < 1):
        raise ValueError(
            f"learning_rate={learning_rate}, classes={classes}, batch_size={batch_size}, images={images}; "
            "expected a positive rate, at least 2 classes, and at least 1 point per batch and in all"
        )
    if at not in ("epoch end", "any step"):
        raise unknown_name("at", at, ("epoch end", "any step"))
    found = wander(
        learning_rate=learning_rate,
        share=1 / classes,
        batch_size=batch_size,
        images=images,
        momentum=momentum,
    )
    return found.epoch_end if at == "epoch end" else found.any_step


def _last_gamma(train: TrainSpec) -> float:
    return gamma_in(train.epochs - 1, train)


def _holds(train: TrainSpec) -> bool:
    """Whether the law applies to a run.

    It holds for the squared norm, logits that grow with the latent, and steps as long as the learning rate.
    """
    grows = train.objective not in ("arcface", "cosface")
    return train.penalty == "squared_norm" and grows and train.optimizer in BOUNDED_STEPS


def _share(train: TrainSpec, width: int) -> float:
    """Ratio of Eq. 3's gamma to the spec's."""
    return 1 / width if train.penalty_reduction == "mean" else 1.0


def _images(train: TrainSpec, steps: int, images: int | None) -> int:
    """Return the number of images of an epoch; if it is not given, the number that fills every batch."""
    if images is None:
        return train.batch_size * max(1, round(steps / train.epochs))
    expected = train.epochs * math.ceil(images / train.batch_size)
    if steps != expected:
        raise ValueError(
            f"steps is {steps}; {train.epochs} epochs of {images} images in batches of {train.batch_size} "
            f"are {expected}"
        )
    return images


def _largest_gap(train: TrainSpec, width: int, classes: int, steps: int) -> float:
    """Return the logit gap at the last gamma and the largest separation that the budget allows."""
    separation = reachable_separation(
        width=width, learning_rate=train.learning_rate, steps=steps, classes=classes
    )
    return logit_gap(_last_gamma(train) * _share(train, width), classes=classes, separation=separation)


def readout_margin(
    train: TrainSpec, *, width: int, classes: int, steps: int, images: int | None = None
) -> float:
    """Return the largest logit gap that a budget can hold, in standard deviations of the biases.

    The gap is :func:`logit_gap` at :func:`reachable_separation` and the last gamma; the deviation is
    :func:`bias_sd` at the ends of permuted epochs.

    Notes
    -----
    The separation is a bound that runs stay below, so one deviation is not enough. In 61 runs on digits (IB
    and NarrowIB, learning rates 2e-3 to 2e-2, batches of 32 and 128, 100 and 300 epochs, gamma from 9 to
    6,600) all 38 with a margin below 87 lost their readout, and 8 of the 23 from 87 to 151. The classes of
    digits are not quite equally frequent, and biases learn the logarithms of their frequencies, whose sd of
    0.015 is no smaller than the wander: where classes are equally frequent, less may do.

    Parameters
    ----------
    train
        Training schedule of the run; its penalty must be the squared norm.
    width
        Number of nodes of the latent.
    classes
        Number of classes.
    steps
        Number of optimizer steps of the whole run.
    images
        Number of training images; None: as many as fill every batch. A last batch that is not full adds to
        the wandering of the biases.
    """
    if train.penalty != "squared_norm":
        raise ValueError(f"TrainSpec.penalty is {train.penalty!r}; expected 'squared_norm'")
    if train.optimizer not in BOUNDED_STEPS:
        raise ValueError(f"TrainSpec.optimizer is {train.optimizer!r}; expected one of {BOUNDED_STEPS}")
    if not _holds(train):
        raise ValueError(
            f"TrainSpec.objective is {train.objective!r}, whose logits do not shrink with latents"
        )
    deviation = bias_sd(
        learning_rate=train.learning_rate,
        classes=classes,
        batch_size=train.batch_size,
        images=_images(train, steps, images),
    )
    gap = _largest_gap(train, width, classes, steps)
    return gap / deviation if deviation else math.inf


def budget_warning(
    train: TrainSpec,
    *,
    width: int,
    classes: int,
    steps: int,
    images: int | None = None,
    certain: bool = False,
) -> str | None:
    """Return a warning if gamma ends so high that the readout is lost, or probably is, else None.

    Any network loses it if the largest logit gap that the budget can hold is less than
    :data:`LOST_STEPS` steps of the classifier's bias. If :func:`readout_margin` is below
    :data:`LOST_MARGIN`, the loss is probable: every such run on digits lost its readout. The absence of a
    warning is no promise, because the margin is that of the largest gap, and some runs above it lost theirs.

    Parameters
    ----------
    train
        Training schedule of the run. The result is None where the penalty is not the squared norm, for
        ``arcface`` and ``cosface``, whose logits do not shrink with the latents, and for SGD, whose steps
        have no bound.
    width
        Number of nodes of the latent.
    classes
        Number of classes.
    steps
        Number of optimizer steps of the whole run.
    images
        Number of training images; None: as many as fill every batch.
    certain
        Whether to warn only if any network would lose its readout, ignoring what was observed on digits.
    """
    if not _holds(train):
        return None
    rate, share = train.learning_rate, _share(train, width)
    gap = _largest_gap(train, width, classes, steps)
    margin = readout_margin(train, width=width, classes=classes, steps=steps, images=images)
    if gap >= LOST_STEPS * rate and (certain or margin >= LOST_MARGIN):
        return None
    deviation = bias_sd(
        learning_rate=rate,
        classes=classes,
        batch_size=train.batch_size,
        images=_images(train, steps, images),
        at="any step",
    )
    carried = carried_gamma(gap=2.0, classes=classes, width=width, learning_rate=rate, steps=steps) / share
    verdict = (
        "so the readout will be lost"
        if gap < LOST_STEPS * rate
        else f"and the margin is {margin:.2g}: below {LOST_MARGIN} every run on digits lost its readout"
    )
    return (
        f"gamma ends at {_last_gamma(train):.3g}, where {steps:,} steps at learning rate {rate:g} and "
        f"{width} nodes hold a logit gap of at most {gap:.2g}: a step of a bias is {rate:g} and the biases "
        f"wander by {deviation:.2g}, {verdict}. At a gap of 2 this budget carries gamma to {carried:.2g}"
    )
