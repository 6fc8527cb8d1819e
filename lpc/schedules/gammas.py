"""Growth of gamma, the weight of the penalty, over epochs: closed forms, without torch."""

from __future__ import annotations

import math

from lpc.computing.options import flag, number, whole


def geometric_gamma(
    epoch: int, *, initial: float, factor: float, maximum: float, overshoot: bool = False
) -> float:
    r"""Return gamma in an epoch, by the geometric schedule: :math:`\min(\gamma_0 f^{e}, \gamma_{\max})`.

    A closed form: a resumed run needs no state for it.

    Parameters
    ----------
    epoch
        Epoch, counted from 0.
    initial, factor, maximum
        First gamma, factor per epoch and largest gamma. LPC Appendix C: 1e-2, 1.05 and 1e6 on CIFAR10 and
        CIFAR100; 1e-2, 1.03 and 1e5 on SVHN.
    overshoot
        Whether to end at the first :math:`\gamma_0 f^{e}` that is not below the maximum, as the release does:
        it multiplies after an epoch while gamma is below, so the last value exceeds the maximum by less than
        the factor.

    Raises
    ------
    ValueError
        If a value is NaN, infinite or no number, the epoch is below 0, gamma is not above 0, or a factor is
        below 1.

    References
    ----------
    LPC 2024, Appendix C.
    """
    epoch = whole("epoch", epoch, least=0)
    initial, maximum = number("initial", initial, above=0), number("maximum", maximum, above=0)
    factor, overshoot = number("factor", factor, least=1), flag("overshoot", overshoot)
    reached = _log_of_ratio(maximum, initial)  # in epochs times log(factor)
    if epoch * math.log(factor) <= reached:
        return min(_grown(initial, factor, epoch), maximum)
    if not overshoot:
        return maximum
    return _grown(initial, factor, int(_changes(initial, factor, maximum)))


def _log_of_ratio(value: float, initial: float) -> float:
    ratio = value / initial
    return math.log(ratio) if 0 < ratio < math.inf else math.log(value) - math.log(initial)


def _grown(initial: float, factor: float, times: int) -> float:
    try:
        return initial * factor**times
    except OverflowError:  # of the power only: the product is below the maximum, or one factor above
        return math.exp(math.log(initial) + times * math.log(factor))


def two_regime_gamma(
    epoch: int,
    *,
    initial: float,
    factor: float,
    maximum: float,
    late_factor: float,
    late_from: float,
    overshoot: bool = False,
) -> float:
    r"""Return gamma in an epoch, with another factor once gamma has reached a value.

    A closed form, like :func:`geometric_gamma`: gamma is multiplied by ``factor`` after an epoch while it is
    below ``late_from``, else by ``late_factor``.

    Parameters
    ----------
    epoch
        Epoch, counted from 0; if gamma changes every few epochs, the number of changes so far.
    initial, factor, maximum, overshoot
        The arguments of :func:`geometric_gamma`.
    late_factor, late_from
        Factor per change of gamma once it has reached ``late_from``. The 2025 release: doubling to 1e3, then
        times 1.25 to 1e6, from 1e-4 on and every 5 epochs.

    Notes
    -----
    gamma is not below ``late_from`` :math:`\gamma_1` after
    :math:`m = \lceil\log(\gamma_1/\gamma_0) / \log f\rceil` changes, and
    :math:`\gamma_0 f^{\min(e, m)}\, f_1^{\max(0, e - m)}` in epoch e, up to the maximum.

    Raises
    ------
    ValueError
        As in :func:`geometric_gamma`, also for the late regime.
    """
    late_factor = number("late_factor", late_factor, least=1)
    late_from = number("late_from", late_from, above=0)
    limits = {"maximum": maximum, "overshoot": overshoot}
    early = geometric_gamma(epoch, initial=initial, factor=factor, **limits)
    epoch, initial, factor = int(epoch), float(initial), float(factor)
    changes = _changes(initial, factor, late_from)
    turn = math.inf if changes == math.inf else _grown(initial, factor, int(changes))
    if epoch <= changes or turn >= maximum:
        return early
    return geometric_gamma(epoch - int(changes), initial=turn, factor=late_factor, **limits)


def _changes(initial: float, factor: float, target: float) -> float:
    """Return the fewest multiplications by a factor that bring a value to a target; infinity where none do.

    A quotient of logarithms that misses an integer by rounding alone is that integer.
    """
    if initial >= target:
        return 0
    if factor == 1:
        return math.inf
    quotient = _log_of_ratio(target, initial) / math.log(factor)
    return round(quotient) if math.isclose(quotient, round(quotient), rel_tol=1e-12) else math.ceil(quotient)
