"""Penalties on latents and weights, and the schedule of their weight gamma."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.specs import Reduction, unknown_name

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


def _gaussian_entropy(latent: Tensor, group: str) -> Tensor:
    if latent.shape[0] < 2:
        raise ValueError(f"the variance of {group} needs 2 or more points; got {latent.shape[0]}")
    variance = latent.var(dim=0)
    if not bool((variance > 0).all()):
        nodes = torch.nonzero(~(variance > 0)).flatten().tolist()
        raise ValueError(
            f"the variance of {group} is not positive at nodes {nodes}: its logarithm is undefined"
        )
    return 0.5 * (variance.log() + _LOG_2PIE).sum()


def log_variance(latent: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    r"""Return the Gaussian upper bound of H[Z] in nats, from the variance of each node.

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
    return _gaussian_entropy(latent, "the batch")


def conditional_log_variance(
    latent: Float[Tensor, "batch width"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    r"""Return the Gaussian upper bound of H[Z | Y] in nats, weighted by the classes' shares of the batch.

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
    total = latent.new_zeros(())
    for value in label.unique().tolist():
        member = latent[label == value]
        total = total + member.shape[0] / latent.shape[0] * _gaussian_entropy(member, f"class {value}")
    return total


def objective(
    latent: Float[Tensor, "batch width"],
    logits: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"],
    *,
    gamma: Float[Tensor, ""] | float,
    l1: Float[Tensor, ""] | float = 0.0,
    weight: Float[Tensor, "nodes feature"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Return the two parts of what is minimised: the cross-entropy in nats, and the weighted penalties.

    Notes
    -----
    :math:`\gamma \frac1N\sum_n \lVert z_n\rVert^2 + \lambda \sum_{ij} |w_{ij}|`, with the weights of the
    penultimate layer in the second term.

    Parameters
    ----------
    latent, logits, label
        Of a batch.
    gamma
        Weight of the squared norm, summed over nodes.
    l1, weight
        Coefficient and weights of the L1 penalty; None: there is none.

    References
    ----------
    LPC 2024, Eq. 3 and Appendix C (NonLinPenL1).
    """
    penalty = gamma * squared_norm(latent, reduction="sum")
    if weight is not None:
        penalty = penalty + l1 * weight.abs().sum()
    return torch.nn.functional.cross_entropy(logits, label), penalty


def geometric_gamma(
    epoch: int, *, initial: float, factor: float, maximum: float, overshoot: bool = False
) -> float:
    r"""Return the penalty's weight in an epoch: :math:`\min(\gamma_0 f^{e}, \gamma_{\max})`.

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
    return initial * factor ** max(0, math.ceil(reached / math.log(factor)))


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
    scale = math.exp(-0.5 * _LOG_2PIE)
    return scale * torch.randn(shape, generator=generator, device=generator.device)
