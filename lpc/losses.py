"""Penalties on latents and weights, and the schedule of their weight gamma.

Penalties are computed outside autocast, and half-precision arguments in float32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lpc.computing.numerics import full_precision
from lpc.inputs.batches import check_latent, checked_label
from lpc.options import choice, flag, number, whole
from lpc.sampling import ZERO_ENTROPY_SD
from lpc.specs import Reduction

_LOG_2PIE = math.log(2 * math.pi * math.e)


def _over_nodes(value: Float[Tensor, "batch width"], reduction: Reduction) -> Float[Tensor, ""]:
    return value.sum(dim=1).mean() if reduction == "sum" else value.mean()


@full_precision
def squared_norm(latent: Float[Tensor, "batch width"], *, reduction: Reduction) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of the squared Euclidean norm of the latents.

    Parameters
    ----------
    latent
        Penultimate representations.
    reduction
        ``"sum"``: :math:`\frac1N\sum_n\sum_p z_{np}^2`, the paper's. ``"mean"``: the same divided by the
        width P, the release's, whose gamma is therefore P times weaker.

    Raises
    ------
    ValueError
        What is no (batch, width) of floats, such as feature maps or tokens; another reduction.

    References
    ----------
    LPC 2024, Eqs. 3 and 13; Kirsch et al. 2020, Section 6.2.
    """
    check_latent(latent)
    choice("reduction", reduction, Reduction)
    return _over_nodes(latent.square(), reduction)


@full_precision
def absolute_norm(latent: Float[Tensor, "batch width"], *, reduction: Reduction) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of the L1 norm of the latents.

    Parameters
    ----------
    latent
        Penultimate representations.
    reduction
        ``"sum"``: :math:`\frac1N\sum_n\sum_p |z_{np}|`. ``"mean"``: the same divided by the width.

    Raises
    ------
    ValueError
        As :func:`squared_norm`.
    """
    check_latent(latent)
    choice("reduction", reduction, Reduction)
    return _over_nodes(latent.abs(), reduction)


def _positive(variance: Float[Tensor, " width"], group: str) -> None:
    if not bool((variance > 0).all()):
        nodes = torch.nonzero(~(variance > 0)).flatten().tolist()
        raise ValueError(
            f"latent: the variance of {group} is not positive at nodes {nodes}: its logarithm is undefined"
        )


def _gaussian_entropy(variance: Float[Tensor, "*groups width"]) -> Float[Tensor, "*groups"]:
    return 0.5 * (variance.log() + _LOG_2PIE).sum(dim=-1)


@full_precision
def log_variance(latent: Float[Tensor, "batch width"], *, check: bool = True) -> Float[Tensor, ""]:
    r"""Return the Gaussian upper bound of H[Z] in nats, from the variance of each node.

    Parameters
    ----------
    latent
        Penultimate representations.
    check
        Whether to look for nodes of zero variance. False: their bound is minus infinity, nothing waits for
        the device, and the function can be mapped over runs.

    Notes
    -----
    :math:`\sum_i \frac12 \ln(2\pi e\,\widehat{\mathrm{Var}}[Z_i])` with the unbiased sample variance.

    Raises
    ------
    ValueError
        What is no (batch, width) of floats, fewer than two points, or a node whose variance is zero or NaN.

    References
    ----------
    Kirsch et al. 2020, Observations 7 and 8.
    """
    check_latent(latent)
    if latent.shape[0] < 2:
        raise ValueError(f"latent: the variance of the batch needs 2 or more points; got {latent.shape[0]}")
    variance = latent.var(dim=0)
    if check:
        _positive(variance, "the batch")
    return _gaussian_entropy(variance)


@full_precision
def conditional_log_variance(
    latent: Float[Tensor, "batch width"], label: Integer[Tensor, " batch"]
) -> Float[Tensor, ""]:
    r"""Return the Gaussian upper bound of H[Z | Y] in nats, weighted by the classes' shares of the batch.

    Parameters
    ----------
    latent
        Penultimate representations.
    label
        Class of each: any integers, each value a class.

    Notes
    -----
    :math:`\mathbb E_{\hat p(y)} \sum_i \frac12 \ln(2\pi e\,\widehat{\mathrm{Var}}[Z_i \mid y])` with the
    unbiased sample variance of each class in the batch.

    Raises
    ------
    ValueError
        What is no (batch, width) of floats, labels that are not one integer a point, a class with one point,
        or with a node whose variance is zero or NaN.

    References
    ----------
    Kirsch et al. 2020, Observations 7 and 8.
    """
    check_latent(latent)
    values, index, counts = checked_label(label, latent).unique(return_inverse=True, return_counts=True)
    for value in values[counts == 1].tolist():
        raise ValueError(f"latent: the variance of class {value} needs 2 or more points; got 1")
    for position, value in enumerate(values.tolist()):
        _positive(latent[index == position].var(dim=0), f"class {value}")
    return _conditional_log_variance(latent, index, len(values))


@full_precision
def batch_conditional_log_variance(
    latent: Float[Tensor, "batch width"],
    label: Integer[Tensor, " batch"],
    *,
    classes: int,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    """Return :func:`conditional_log_variance` over the classes that have two points or more in the batch.

    What training takes: a class may have a single point in a batch, which has no variance; the classes'
    shares are then those of the others. Variances are not looked at, nothing waits for a GPU, and the
    function can be mapped over runs. A batch in which no class has two points has the value 0.

    Parameters
    ----------
    latent, label
        Of a batch.
    classes
        Number of classes; labels go from 0 to ``classes - 1``.
    check
        Whether to look at the labels' values. None: where they are in the host's memory; False: never, and a
        point of another label counts nothing; True: also on a GPU, for which the program then waits.

    Raises
    ------
    ValueError
        What is no (batch, width) of floats, labels that are not one class a point, or fewer than one class.
    """
    check_latent(latent)
    index = checked_label(label, latent, classes=whole("classes", classes), check=check)
    return _conditional_log_variance(latent, index, classes)


def _conditional_log_variance(
    latent: Float[Tensor, "batch width"], label: Integer[Tensor, " batch"], classes: int
) -> Float[Tensor, ""]:
    member = (label[:, None] == torch.arange(classes, device=label.device)).to(latent.dtype)
    counts = member.sum(dim=0)
    mean = member.T @ latent / counts.clamp(min=1)[:, None]
    scatter = member.T @ (latent - member @ mean).square()
    counted = counts > 1
    variance = torch.where(counted[:, None], scatter / (counts - 1).clamp(min=1)[:, None], 1.0)
    share = torch.where(counted, counts, 0.0)
    return (share * _gaussian_entropy(variance)).sum() / share.sum().clamp(min=1)


def geometric_gamma(
    epoch: int, *, initial: float, factor: float, maximum: float, overshoot: bool = False
) -> float:
    r"""Return gamma in an epoch, by the geometric schedule: :math:`\min(\gamma_0 f^{e}, \gamma_{\max})`.

    A closed form: a resumed run needs no state for it.

    Parameters
    ----------
    epoch
        Counted from 0.
    initial, factor, maximum
        LPC Appendix C: 1e-2, 1.05 and 1e6 on CIFAR10 and CIFAR100; 1e-2, 1.03 and 1e5 on SVHN.
    overshoot
        End at the first :math:`\gamma_0 f^{e}` that is not below the maximum, as the release does: it
        multiplies after an epoch while gamma is below, so the last value exceeds the maximum by less than
        the factor.

    Raises
    ------
    ValueError
        Anything that is NaN, infinite or no number; an epoch below 0, gamma not above 0, a factor below 1.

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
    except OverflowError:  # of the power alone: the product is below the maximum, or a factor above
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
    r"""Return gamma in an epoch, where the schedule has another factor once gamma has reached a value.

    A closed form, as :func:`geometric_gamma`: gamma is multiplied by ``factor`` after an epoch while it is
    below ``late_from``, else by ``late_factor``.

    Parameters
    ----------
    epoch
        Counted from 0; where gamma changes every few epochs, the number of changes so far.
    initial, factor, maximum, overshoot
        As in :func:`geometric_gamma`.
    late_factor, late_from
        The 2025 release: doubling to 1e3, then times 1.25 to 1e6, from 1e-4 on and every 5 epochs.

    Notes
    -----
    gamma is not below ``late_from`` :math:`\gamma_1` after
    :math:`m = \lceil\log(\gamma_1/\gamma_0) / \log f\rceil` changes, and
    :math:`\gamma_0 f^{\min(e, m)}\, f_1^{\max(0, e - m)}` in epoch e, up to the maximum.

    Raises
    ------
    ValueError
        As :func:`geometric_gamma`, also of the late regime.
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


def zero_entropy_noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, ...]:
    r"""Return Gaussian noise whose differential entropy is zero in every dimension.

    Notes
    -----
    :math:`\epsilon \sim \mathcal N(0, \tfrac{1}{2\pi e})`, so that
    :math:`H[\epsilon] = \frac12\ln(2\pi e\,\sigma^2) = 0` and every :math:`H[Z + \epsilon] \ge 0`.

    Parameters
    ----------
    shape
        Of the noise.
    generator
        Source of randomness; the noise is made on its device, in float32.

    Raises
    ------
    ValueError
        No generator, or a shape that is no tuple of sizes.

    References
    ----------
    Kirsch et al. 2020, Section 6.1, Observation 6.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {generator!r}; expected a torch.Generator")
    if not isinstance(shape, (tuple, list)):
        raise ValueError(f"shape is {shape!r}; expected a tuple of sizes")
    shape = tuple(whole("a size of shape", size, least=0) for size in shape)
    return ZERO_ENTROPY_SD * torch.randn(shape, generator=generator, device=generator.device)
