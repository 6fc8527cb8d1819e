"""Penalties on latents and weights, and the schedule of their weight gamma."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.errors import unknown_name
from lpc.sampling import ZERO_ENTROPY_SD
from lpc.specs import Reduction

_LOG_2PIE = math.log(2 * math.pi * math.e)


def _over_nodes(value: Float[Tensor, "batch width"], reduction: str) -> Float[Tensor, ""]:
    if reduction == "sum":
        return value.sum(dim=1).mean()
    if reduction == "mean":
        return value.mean()
    raise unknown_name("reduction", reduction, ("sum", "mean"))


def squared_norm(latent: Float[Tensor, "batch width"], *, reduction: Reduction) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of the squared Euclidean norm of the latents.

    Parameters
    ----------
    latent
        Penultimate representations.
    reduction
        ``"sum"``: :math:`\frac1N\sum_n\sum_p z_{np}^2`, the paper's. ``"mean"``: the same divided by the
        width P, the release's, whose gamma is therefore P times weaker.

    References
    ----------
    LPC 2024, Eqs. 3 and 13; Kirsch et al. 2020, Section 6.2.
    """
    return _over_nodes(latent.square(), reduction)


def absolute_norm(latent: Float[Tensor, "batch width"], *, reduction: Reduction) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of the L1 norm of the latents.

    Parameters
    ----------
    latent
        Penultimate representations.
    reduction
        ``"sum"``: :math:`\frac1N\sum_n\sum_p |z_{np}|`. ``"mean"``: the same divided by the width.
    """
    return _over_nodes(latent.abs(), reduction)


def _positive(variance: Float[Tensor, " width"], group: str) -> None:
    if not bool((variance > 0).all()):
        nodes = torch.nonzero(~(variance > 0)).flatten().tolist()
        raise ValueError(
            f"the variance of {group} is not positive at nodes {nodes}: its logarithm is undefined"
        )


def _gaussian_entropy(variance: Float[Tensor, "*groups width"]) -> Float[Tensor, "*groups"]:
    return 0.5 * (variance.log() + _LOG_2PIE).sum(dim=-1)


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
        Fewer than two points, or a node of zero variance.

    References
    ----------
    Kirsch et al. 2020, Observations 7 and 8.
    """
    if latent.shape[0] < 2:
        raise ValueError(f"the variance of the batch needs 2 or more points; got {latent.shape[0]}")
    variance = latent.var(dim=0)
    if check:
        _positive(variance, "the batch")
    return _gaussian_entropy(variance)


def conditional_log_variance(
    latent: Float[Tensor, "batch width"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    r"""Return the Gaussian upper bound of H[Z | Y] in nats, weighted by the classes' shares of the batch.

    Parameters
    ----------
    latent
        Penultimate representations.
    label
        Class of each.

    Notes
    -----
    :math:`\mathbb E_{\hat p(y)} \sum_i \frac12 \ln(2\pi e\,\widehat{\mathrm{Var}}[Z_i \mid y])` with the
    unbiased sample variance of each class in the batch.

    Raises
    ------
    ValueError
        A class with one point, or with a node of zero variance.

    References
    ----------
    Kirsch et al. 2020, Observations 7 and 8.
    """
    classes = int(label.max()) + 1
    counts = label.bincount(minlength=classes)
    for value in torch.nonzero(counts == 1).flatten().tolist():
        raise ValueError(f"the variance of class {value} needs 2 or more points; got 1")
    for value in torch.nonzero(counts).flatten().tolist():
        _positive(latent[label == value].var(dim=0), f"class {value}")
    return batch_conditional_log_variance(latent, label, classes=classes)


def batch_conditional_log_variance(
    latent: Float[Tensor, "batch width"], label: Int[Tensor, " batch"], *, classes: int
) -> Float[Tensor, ""]:
    """Return :func:`conditional_log_variance` over the classes that have two points or more in the batch.

    What training takes: a class may have a single point in a batch, which has no variance; the classes'
    shares are then those of the others. Nothing is checked, nothing waits for the device, and the function
    can be mapped over runs. A batch in which no class has two points has the value 0.

    Parameters
    ----------
    latent, label
        Of a batch.
    classes
        Number of classes.
    """
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

    References
    ----------
    LPC 2024, Appendix C.
    """
    if epoch < 0:
        raise ValueError(f"epoch is {epoch}; expected 0 or more")
    if initial <= 0 or maximum <= 0 or factor < 1:
        raise ValueError(
            f"gamma's schedule is initial={initial}, factor={factor}, maximum={maximum}; "
            "expected initial and maximum above 0 and a factor of 1 or more"
        )
    reached = math.log(maximum / initial)  # in epochs times log(factor)
    if epoch * math.log(factor) <= reached:
        return min(initial * factor**epoch, maximum)
    if not overshoot:
        return maximum
    return initial * factor ** int(_changes(initial, factor, maximum))


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
    """
    if late_factor < 1 or late_from <= 0:
        raise ValueError(
            f"gamma's late schedule is late_factor={late_factor}, late_from={late_from}; "
            "expected a factor of 1 or more and a value above 0"
        )
    limits = {"maximum": maximum, "overshoot": overshoot}
    early = geometric_gamma(epoch, initial=initial, factor=factor, **limits)
    changes = _changes(initial, factor, late_from)
    if epoch <= changes or initial * factor ** int(changes) >= maximum:
        return early
    turn = initial * factor ** int(changes)
    return geometric_gamma(epoch - int(changes), initial=turn, factor=late_factor, **limits)


def _changes(initial: float, factor: float, target: float) -> float:
    """Return the fewest multiplications by a factor that bring a value to a target; infinity where none do.

    A quotient of logarithms that misses an integer by rounding alone is that integer.
    """
    if initial >= target:
        return 0
    if factor == 1:
        return math.inf
    quotient = math.log(target / initial) / math.log(factor)
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

    References
    ----------
    Kirsch et al. 2020, Section 6.1, Observation 6.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {generator!r}; expected a torch.Generator")
    return ZERO_ENTROPY_SD * torch.randn(shape, generator=generator, device=generator.device)
