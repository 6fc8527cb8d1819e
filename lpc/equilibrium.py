"""Where the pull of gamma and the push of the classifier balance, and how far a budget can carry gamma."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import lambertw


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
    if gamma <= 0 or separation <= 0 or classes < 2:
        raise ValueError(
            f"gamma={gamma}, separation={separation}, classes={classes}; "
            "expected gamma and separation above 0 and 2 or more classes"
        )
    target = classes * separation**2 / (4 * gamma)
    upper = float(lambertw(target).real)  # solves g e^g = target, so the root lies below it
    return float(brentq(lambda gap: gap * (math.exp(gap) + classes - 1) - target, 0.0, upper, xtol=1e-300))


def radius(gamma: float, *, classes: int, separation: float) -> float:
    r"""Return the norm of a free latent at equilibrium (LPC Eq. 16).

    Notes
    -----
    :math:`\Delta = \alpha\,\lVert w_y - \bar w\rVert` with :math:`\alpha = 2g/D^2` and, for a simplex,
    :math:`\lVert w_y - \bar w\rVert = D\sqrt{(K-1)/(2K)}`.
    """
    gap = logit_gap(gamma, classes=classes, separation=separation)
    return 2 * gap / separation * math.sqrt((classes - 1) / (2 * classes))


def reachable_separation(*, width: int, learning_rate: float, steps: int) -> float:
    r"""Return the farthest apart that AdamW can move two weight vectors from zero.

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
