r"""Effect of coupled weight decay on collapse: from a certain gamma on, only the zero latent is left.

Every parameter's gradient gets :math:`\lambda` times the parameter (``torch.optim.Adam(weight_decay=...)``):
the loss contains :math:`\tfrac\lambda2\lVert W\rVert^2`. AdamW's decay is decoupled and does not count here.
"""

from __future__ import annotations

import math


def extinction_gamma(*, weight_decay: float, classes: int) -> float:
    r"""Return the gamma from which the zero latent is the global minimum.

    Notes
    -----
    :math:`\gamma = 1 / (2\lambda K)`. With latents Z (one column per class) and logits
    :math:`M = WZ`, the cheapest factorisation of M costs
    :math:`\min \tfrac{\gamma}{K}\lVert Z\rVert^2 + \tfrac\lambda2\lVert W\rVert^2
    = \sqrt{2\gamma\lambda/K}\,\lVert M\rVert_*`, the mean cross-entropy of K balanced classes is convex in M,
    and its gradient at zero has the spectral norm :math:`1/K`. So zero is the minimum if and only if
    :math:`\sqrt{2\gamma\lambda/K} \ge 1/K`.

    Parameters
    ----------
    weight_decay
        :math:`\lambda`, the coupled weight decay of the classifier.
    classes
        Number of classes K, taken as equally frequent.

    References
    ----------
    Ours; the loss is LPC 2024's Eq. 3 with the L2 regularisation of its Appendix C.
    """
    _check(weight_decay, classes)
    return 1 / (2 * weight_decay * classes)


def decayed_gap(gamma: float, *, weight_decay: float, classes: int) -> float:
    r"""Return the logit gap at the global minimum over latents and classifier; 0 from extinction on.

    Notes
    -----
    The minimum is a simplex, :math:`M = g\,(I - \tfrac1K\mathbf 1\mathbf 1^\top)` with nuclear norm
    :math:`(K - 1) g`: :math:`1/(e^g + K - 1) = \sqrt{2\gamma\lambda/K}`, so
    :math:`g = \ln\bigl(K / \sqrt{2\gamma\lambda K} - K + 1\bigr)`. It depends on
    :math:`\gamma\lambda` alone.

    Parameters
    ----------
    gamma
        Weight of the squared norm in the convention of Eq. 3.
    weight_decay
        :math:`\lambda`, the coupled weight decay of the classifier.
    classes
        Number of classes K, taken as equally frequent.
    """
    _check(weight_decay, classes)
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}; expected a positive number")
    inside = classes / math.sqrt(2 * gamma * weight_decay * classes) - classes + 1
    return math.log(inside) if inside > 1 else 0.0


def _check(weight_decay: float, classes: int) -> None:
    if weight_decay <= 0 or classes < 2:
        raise ValueError(
            f"weight_decay={weight_decay}, classes={classes}; expected a positive decay and 2 or more classes"
        )
