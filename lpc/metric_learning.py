"""Losses of metric learning on latents: supervised contrastive, ArcFace, CosFace.

They are computed outside autocast, with half-precision arguments in float32.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.func import functional_call

from lpc.computing.numerics import full_precision
from lpc.computing.options import number
from lpc.errors import missing_extra
from lpc.inputs.batches import check_latent, checked_label


def library() -> tuple[Any, Any, Any]:
    """Return pytorch-metric-learning's ``losses``, ``distances`` and ``reducers``.

    Raises
    ------
    ImportError
        If the library is not installed.
    """
    try:
        from pytorch_metric_learning import distances, losses, reducers
    except ImportError as error:
        raise missing_extra("a loss of metric learning", ["pytorch-metric-learning"], "margins") from error
    return losses, distances, reducers


@full_precision
def supervised_contrastive(
    latent: Float[Tensor, "batch width"], label: Integer[Tensor, " batch"], *, temperature: float
) -> Float[Tensor, ""]:
    r"""Return the supervised contrastive loss of a batch in nats: the mean over anchors with a positive.

    Parameters
    ----------
    latent
        Latents of the batch, shape (batch, width); their scale has no effect. Half precision is computed in
        float32.
    label
        Class of each point: any integers, one value per class.
    temperature
        Temperature tau, above 0 (Khosla et al. 2020: 0.1, the 2025 release: 0.05).

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, the labels are not one integer per point, or
        ``temperature`` is not above 0.

    Notes
    -----
    :math:`\mathcal L_{out} = \frac1{|I|}\sum_{i\in I}\frac{-1}{|P(i)|}\sum_{p\in P(i)}
    \ln\frac{e^{z_i\cdot z_p/\tau}}{\sum_{a\ne i}e^{z_i\cdot z_a/\tau}}` with z of length 1, :math:`P(i)` the
    other points of the class of i. There it is a sum over two views of every image, so that no anchor is
    without a positive; here the batch has one view, and I is the points whose class has another one in it.
    The library's own mean is over the losses above 0, which drops anchors that are perfect to rounding; we do
    not use it. Without any positive, and in a batch of one class, the value is 0 (the library's).

    References
    ----------
    Khosla et al. 2020, Eq. 2.
    """
    check_latent(latent)
    label = checked_label(label, latent)
    temperature = number("temperature", temperature, above=0)
    over_all = _contrastive(temperature)(latent, label)
    paired = (label[:, None] == label).sum(dim=1) > 1
    return over_all / paired.to(latent.dtype).mean().clamp(min=1 / label.shape[0])


@full_precision
def arcface(
    latent: Float[Tensor, "batch width"],
    label: Integer[Tensor, " batch"],
    weight: Float[Tensor, "classes width"],
    *,
    margin: float,
    scale: float,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return the ArcFace loss in nats: mean cross-entropy with a margin added to the true class's angle.

    Parameters
    ----------
    latent
        Latents of the batch, shape (batch, width). Half precision is computed in float32.
    label
        Class of each point, a row index of ``weight``.
    weight
        Weight of a cosine classifier, shape (classes, width); the lengths of its rows and of the latents have
        no effect.
    margin
        Margin m in radians, from 0 to below pi / 2 (Deng et al. 2019: 0.5, the 2025 release: 0.3).
    scale
        Scale s of the cosines, above 0 (Deng et al. 2019: 64, the 2025 release: 32).
    check
        Whether the labels' values are checked. None: only where they are in the host's memory; True: also on
        a GPU, which the program then has to wait for.

    Raises
    ------
    ValueError
        If ``latent`` is not a (batch, width) array of floats, ``weight`` has another width or dtype, the
        labels are not one row index per point, or the margin or scale is out of range.

    Notes
    -----
    :math:`-\ln\frac{e^{s\cos(\theta_y + m)}}{e^{s\cos(\theta_y + m)} + \sum_{k\ne y}e^{s\cos\theta_k}}` with
    :math:`\theta_k` the angle of latent and weight k. Where :math:`\theta_y + m > \pi` the library takes
    :math:`\cos\theta_y - m\sin m`, so that the loss falls everywhere with the angle. Cosines are kept a unit
    of rounding away from 1 and -1: there the gradient of the angle is infinite, and torch decides what the
    library's clamp makes of it.

    References
    ----------
    Deng et al. 2019, Eq. 3.
    """
    return _margin_softmax("arcface", latent, label, weight, margin=margin, scale=scale, check=check)


@full_precision
def cosface(
    latent: Float[Tensor, "batch width"],
    label: Integer[Tensor, " batch"],
    weight: Float[Tensor, "classes width"],
    *,
    margin: float,
    scale: float,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return the CosFace loss in nats: mean cross-entropy, the true class's cosine less a margin.

    Parameters
    ----------
    latent, label, weight, scale, check
        The arguments of :func:`arcface`.
    margin
        Margin m in units of the cosine, at least 0 (Wang et al. 2018: 0.35).

    Raises
    ------
    ValueError
        As in :func:`arcface`.

    Notes
    -----
    :math:`-\ln\frac{e^{s(\cos\theta_y - m)}}{e^{s(\cos\theta_y - m)} + \sum_{k\ne y}e^{s\cos\theta_k}}`.

    References
    ----------
    Wang et al. 2018, Eq. 4.
    """
    return _margin_softmax("cosface", latent, label, weight, margin=margin, scale=scale, check=check)


def _margin_softmax(
    name: str,
    latent: Tensor,
    label: Tensor,
    weight: Tensor,
    *,
    margin: float,
    scale: float,
    check: bool | None,
) -> Tensor:
    check_latent(latent)
    check_latent(weight, name="weight", form="(classes, width)")
    classes, width = weight.shape
    if latent.shape[1] != width:
        raise ValueError(f"latent has width {latent.shape[1]} and weight has width {width}")
    label = checked_label(label, latent, classes=classes, check=check)
    margin, scale = number("margin", margin, least=0, below=math.pi / 2), number("scale", scale, above=0)
    if latent.dtype != weight.dtype:  # the library would cast the weight, and lose its gradient
        raise ValueError(f"the latent is {latent.dtype} but the weight {weight.dtype}; expected the same")
    loss = _softmax(name, classes, width, margin, scale)
    return functional_call(loss, {"W": weight.T}, (latent, label))


@lru_cache
def _contrastive(temperature: float) -> torch.nn.Module:
    losses, _, reducers = library()
    return losses.SupConLoss(temperature=temperature, reducer=reducers.MeanReducer())


@lru_cache
def _softmax(name: str, classes: int, width: int, margin: float, scale: float) -> torch.nn.Module:
    """Return the library's loss, whose own weights are neither used nor drawn at random."""
    losses, distances, reducers = library()

    class InsideCosine(distances.CosineSimilarity):
        def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            most = 1 - torch.finfo(query_emb.dtype).eps
            return super().compute_mat(query_emb, ref_emb).clamp(-most, most)

    kinds = {"arcface": (losses.ArcFaceLoss, math.degrees(margin)), "cosface": (losses.CosFaceLoss, margin)}
    kind, its_margin = kinds[name]
    return kind(
        num_classes=classes,
        embedding_size=width,
        margin=its_margin,
        scale=scale,
        distance=InsideCosine(),
        reducer=reducers.MeanReducer(),
        weight_init_func=torch.nn.init.zeros_,
    )
