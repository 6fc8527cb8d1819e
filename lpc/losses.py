"""Penalties on latents and weights, and the schedule of their weight gamma.

Penalties are computed outside autocast, with half-precision arguments in float32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lpc.computing.numerics import full_precision
from lpc.computing.options import choice, number, whole
from lpc.computing.sampling import ZERO_ENTROPY_SD
from lpc.inputs.batches import check_latent, checked_label
from lpc.schedules.gammas import geometric_gamma as geometric_gamma
from lpc.schedules.gammas import two_regime_gamma as two_regime_gamma
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
        Penultimate representations, shape (batch, width).
    reduction
        Convention over nodes. ``"sum"``: :math:`\frac1N\sum_n\sum_p z_{np}^2`, the paper's. ``"mean"``: the
        same divided by the width P, as in the release, whose gamma is therefore P times weaker.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, as with feature maps or tokens, or
        ``reduction`` is unknown.

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
        Penultimate representations, shape (batch, width).
    reduction
        Convention over nodes. ``"sum"``: :math:`\frac1N\sum_n\sum_p |z_{np}|`. ``"mean"``: the same divided
        by the width.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, or ``reduction`` is unknown.
    """
    check_latent(latent)
    choice("reduction", reduction, Reduction)
    return _over_nodes(latent.abs(), reduction)


@full_precision
def norm_power(latent: Float[Tensor, "batch width"], *, power: float) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of a power of the Euclidean norm of the latents.

    Parameters
    ----------
    latent
        Penultimate representations or logits, shape (batch, width).
    power
        Exponent p, at least 1: below 1 the gradient at a latent of zero is infinite. At 1 that gradient is
        taken as zero.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, or ``power`` is below 1.

    Notes
    -----
    :math:`\frac1N\sum_n \lVert z_n\rVert^p`: :func:`squared_norm`, summed over nodes, at p = 2.
    """
    check_latent(latent)
    return torch.linalg.vector_norm(latent, dim=1).pow(number("power", power, least=1)).mean()


@full_precision
def normal_divergence(
    mean: Float[Tensor, "batch width"], sd: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    r"""Return the mean divergence in nats of independent Gaussians from the standard normal distribution.

    Parameters
    ----------
    mean
        Means of the Gaussians, shape (batch, width).
    sd
        Their standard deviations, shape (batch, width), above 0 (not checked, so that nothing waits for a
        GPU).

    Raises
    ------
    ValueError
        If an array is not a (batch, width) array of floats, or the two shapes differ.

    Notes
    -----
    :math:`\frac1N\sum_n\sum_i \tfrac12\left(\mu_{ni}^2 + \sigma_{ni}^2 - 1 - 2\ln\sigma_{ni}\right)`, an
    upper bound of I(X; Z) where Z is drawn from those Gaussians.

    References
    ----------
    Alemi et al. 2017, Deep variational information bottleneck, Eqs. 14 and 17.
    """
    check_latent(mean, name="mean")
    check_latent(sd, name="sd")
    if mean.shape != sd.shape:
        raise ValueError(f"mean has shape {tuple(mean.shape)} and sd {tuple(sd.shape)}; expected the same")
    return 0.5 * (mean.square() + sd.square() - 1 - 2 * sd.log()).sum(dim=1).mean()


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
        Penultimate representations, shape (batch, width).
    check
        Whether nodes of zero variance raise an error. False: their bound is minus infinity, nothing waits for
        the device, and the function can be mapped over runs.

    Notes
    -----
    :math:`\sum_i \frac12 \ln(2\pi e\,\widehat{\mathrm{Var}}[Z_i])` with the unbiased sample variance.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, there are fewer than two points, or the
        variance of a node is zero or NaN.

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
        Penultimate representations, shape (batch, width).
    label
        Class of each point, shape (batch,): any integers, one value per class.

    Notes
    -----
    :math:`\mathbb E_{\hat p(y)} \sum_i \frac12 \ln(2\pi e\,\widehat{\mathrm{Var}}[Z_i \mid y])` with the
    unbiased sample variance of each class in the batch.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, the labels are not one integer per point, a
        class has a single point, or the variance of a node within a class is zero or NaN.

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
    """Return :func:`conditional_log_variance` over the classes with at least two points in the batch.

    This is the penalty used in training, where a class may have a single point in a batch and thus no
    variance; the shares are then those of the other classes. Variances are not checked, nothing waits for a
    GPU, and the function can be mapped over runs. A batch in which no class has two points has the value 0.

    Parameters
    ----------
    latent
        Penultimate representations, shape (batch, width).
    label
        Class of each point, shape (batch,).
    classes
        Number of classes; labels go from 0 to ``classes - 1``.
    check
        Whether the labels' values are checked. None: only where they are in the host's memory; False: never,
        and points with other labels count nothing; True: also on a GPU, which the program then has to wait
        for.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, the labels are not one class per point, or
        ``classes`` is below 1.
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


def zero_entropy_noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, " ..."]:
    r"""Return Gaussian noise whose differential entropy is zero in every dimension.

    Notes
    -----
    :math:`\epsilon \sim \mathcal N(0, \tfrac{1}{2\pi e})`, so that
    :math:`H[\epsilon] = \frac12\ln(2\pi e\,\sigma^2) = 0` and every :math:`H[Z + \epsilon] \ge 0`.

    Parameters
    ----------
    shape
        Shape of the noise.
    generator
        Source of randomness; the noise is made on its device, in float32.

    Raises
    ------
    ValueError
        If ``generator`` is no generator, or ``shape`` no tuple of sizes.

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
