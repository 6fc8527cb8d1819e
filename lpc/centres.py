"""Centre loss: the distance of latents from centres of their classes, which follow them.

Computed outside autocast, and half-precision arguments in float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lpc.computing.numerics import full_precision
from lpc.computing.options import number
from lpc.inputs.batches import check_latent, checked_label


@full_precision
def centre_distance(
    latent: Float[Tensor, "batch width"],
    label: Integer[Tensor, " batch"],
    centres: Float[Tensor, "classes width"],
    *,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return the mean over the batch of the squared distance of the latents from their class's centre.

    Parameters
    ----------
    latent
        Penultimate representations.
    label
        Class of every point.
    centres
        One row per class.
    check
        Whether to look at the labels' values. None: where they are in the host's memory; True: also on a GPU,
        for which the program then waits.

    Raises
    ------
    ValueError
        Shapes that do not fit, what is no floats, labels that are not one class a point.

    Notes
    -----
    :math:`\tfrac1N\sum_n \lVert z_n - c_{y_n}\rVert^2`: weighted by gamma, Wen et al.'s loss with
    :math:`\lambda = 2\gamma`, but for their sum over the batch in place of the mean.

    References
    ----------
    Wen et al. 2016, A discriminative feature learning approach for deep face recognition, Eq. 2.
    """
    label = _checked(latent, label, centres, check)
    return (latent - centres[label]).square().sum(dim=1).mean()


@full_precision
@torch.no_grad()
def moved_centres(
    centres: Float[Tensor, "classes width"],
    latent: Float[Tensor, "batch width"],
    label: Integer[Tensor, " batch"],
    *,
    rate: float,
    check: bool | None = None,
) -> Float[Tensor, "classes width"]:
    r"""Return the centres after a batch: each moved towards the mean of its class's latents.

    Parameters
    ----------
    centres, latent, label, check
        As in :func:`centre_distance`.
    rate
        :math:`\alpha`, above 0 and at most 1.

    Raises
    ------
    ValueError
        As :func:`centre_distance`, or another rate.

    Notes
    -----
    :math:`c_k \leftarrow c_k - \alpha\,\frac{\sum_{n: y_n = k} (c_k - z_n)}{1 + n_k}` with the :math:`n_k`
    points of class k in the batch: a class without any keeps its centre.

    References
    ----------
    Wen et al. 2016, Eq. 4 and Algorithm 1.
    """
    label = _checked(latent, label, centres, check)
    rate = number("rate", rate, above=0, most=1)
    member = (label[:, None] == torch.arange(len(centres), device=label.device)).to(latent.dtype)
    count = member.sum(dim=0)[:, None]
    return centres - rate * (count * centres - member.T @ latent) / (1 + count)


def _checked(latent: Tensor, label: Tensor, centres: Tensor, check: bool | None) -> Tensor:
    check_latent(latent)
    check_latent(centres, name="centres", form="(classes, width)")
    if centres.shape[1] != latent.shape[1]:
        raise ValueError(
            f"centres has shape {tuple(centres.shape)} for a latent of shape {tuple(latent.shape)}; "
            f"expected (classes, {latent.shape[1]})"
        )
    return checked_label(label, latent, classes=len(centres), check=check)
