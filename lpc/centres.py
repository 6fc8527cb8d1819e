"""Centre loss: the distance of latents from class centres that follow them.

It is computed outside autocast, with half-precision arguments in float32.
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
        Penultimate representations, shape (batch, width).
    label
        Class of each point, from 0 to ``classes - 1``.
    centres
        Class centres, shape (classes, width).
    check
        Whether the labels' values are checked. None: only where they are in the host's memory; True: also on
        a GPU, which the program then has to wait for.

    Raises
    ------
    ValueError
        If the shapes do not match, an array does not hold floats, or the labels are not one class per point.

    Notes
    -----
    :math:`\tfrac1N\sum_n \lVert z_n - c_{y_n}\rVert^2`: weighted by gamma, this is Wen et al.'s loss with
    :math:`\lambda = 2\gamma`, except that they sum over the batch where we take the mean.

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
        The arguments of :func:`centre_distance`.
    rate
        :math:`\alpha`, the step towards the class means; above 0 and at most 1.

    Raises
    ------
    ValueError
        As in :func:`centre_distance`, or if ``rate`` is out of range.

    Notes
    -----
    :math:`c_k \leftarrow c_k - \alpha\,\frac{\sum_{n: y_n = k} (c_k - z_n)}{1 + n_k}` with the :math:`n_k`
    points of class k in the batch: a class without points keeps its centre.

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
