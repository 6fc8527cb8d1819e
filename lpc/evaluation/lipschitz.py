"""Lipschitz constant of a classifier's logit margin, estimated from below."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from lpc.arrays import Array, as_labels, images_at_once, like, tensor_of
from lpc.computing.numerics import measurement
from lpc.evaluation._networks.networks import Logits, Network, as_given, guarded


class MarginGradient(NamedTuple):
    """The logit margin of every image, and the norm of its gradient there.

    Attributes
    ----------
    margin
        Logit of the decision (or the label) minus the largest other logit; float64, shape (batch,).
    norm
        Euclidean norm of the margin's gradient with respect to the image, in logits per unit of input;
        float64, shape (batch,). Exactly 0 where the margin does not depend on the image.
    """

    margin: Tensor
    norm: Tensor

    @property
    def distance(self) -> Float64[Array, " batch"]:
        """Distance to the boundary of an affine margin: margin / norm, in units of input.

        Infinite where the norm is zero; negative where a given label is not the decision.
        """
        margin, norm = tensor_of(self.margin), tensor_of(self.norm)
        boundary = torch.where(margin < 0, -torch.inf, torch.inf)
        return like(torch.where(norm > 0, margin / norm, boundary), self.margin)


@measurement
def margin_gradient(
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    label: Int[Array, " batch"] | None = None,
    chunk: int | None = None,
) -> MarginGradient:
    r"""Return each image's logit margin and the norm of its input gradient.

    Parameters
    ----------
    logits_fn
        Function from (batch, \*shape) to logits (batch, classes), each image independent of the others: a
        network in evaluation mode. It returns a tensor, or holds one as ``logits``.
    image
        Images, float32 or float64; the network runs in this dtype, norms are taken in float64. Arrays are
        moved to the network's device, and the results are then arrays.
    label
        Class whose margin is taken; None: the decision, so that no margin is negative. The two agree on
        correctly classified images.
    chunk
        Largest number of images per call of ``logits_fn``, which bounds the memory; None: as many as fit in
        :data:`~lpc.arrays.CHUNK_BYTES`, at least 1.

    Returns
    -------
    MarginGradient
        Entries that depend neither on the rest of the batch nor on ``chunk``, except for the rounding of
        ``logits_fn``.

    Raises
    ------
    ValueError
        If images, labels or options are invalid; logits do not have shape (batch, 2 or more classes); logits
        or a gradient are not finite (the message gives the image's index); the network is in training mode,
        or its logits depend on chance or on the other images; or ``torch.inference_mode`` is on.

    Notes
    -----
    :math:`m(x) = f_y(x) - \max_{k \ne y} f_k(x)` and :math:`\lVert\nabla_x m(x)\rVert_2`, with one forward
    and one backward pass. The other class is the runner-up by logit; of equal logits, the first.

    References
    ----------
    The margin gradients of the 2025 release; LPC 2024, Section 2.1, for what they mean.
    """
    chunk = images_at_once(image, chunk)
    with guarded(logits_fn, image, chunk=chunk) as network:
        chosen = None if label is None else as_labels(label, network.image)
        parts = []
        for first in range(0, len(image), chunk):
            some = slice(first, first + chunk)
            parts.append(_part(network, network.image[some], None if chosen is None else chosen[some], first))
    margin, norm = (torch.cat(values) for values in zip(*parts, strict=True))
    return as_given(MarginGradient(margin, norm), image)


def _part(
    network: Network,
    image: Float[Tensor, " batch *shape"],
    label: Int[Tensor, " batch"] | None,
    first: int,
) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Return margin and gradient norm of the images from index ``first``."""
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = network(leaf)
    value = logits.detach()
    _check_finite(torch.isfinite(value).all(dim=1), "logits_fn gave", first)
    if label is not None and bool(((label < 0) | (label >= value.shape[1])).any()):
        raise ValueError(f"label holds classes outside 0 to {value.shape[1] - 1}, the classes of logits_fn")
    own = (value.argmax(dim=1) if label is None else label)[:, None]
    other = value.scatter(1, own, -torch.inf).argmax(dim=1, keepdim=True)
    margin = (value.gather(1, own).double() - value.gather(1, other).double())[:, 0]
    gradient = None
    if logits.requires_grad:
        seed = torch.zeros_like(value).scatter_(1, own, 1.0).scatter_(1, other, -1.0)
        (gradient,) = torch.autograd.grad(logits, leaf, seed, allow_unused=True)
    if gradient is None:
        return margin, torch.zeros_like(margin)
    norm = torch.linalg.vector_norm(gradient.flatten(start_dim=1), dim=1, dtype=torch.float64)
    _check_finite(torch.isfinite(norm), "the margin's gradient is", first)
    return margin, norm


def _check_finite(finite: Tensor, what: str, first: int) -> None:
    if not bool(finite.all()):
        bad = first + int(torch.nonzero(~finite)[0])
        raise ValueError(f"{what} NaN or infinity for image {bad}")


@measurement
def margin_gradient_norm(
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    label: Int[Array, " batch"] | None = None,
    chunk: int | None = None,
) -> Float64[Array, " batch"]:
    """Return only the norm of :func:`margin_gradient`.

    Parameters
    ----------
    logits_fn, image, label, chunk
        The arguments of :func:`margin_gradient`.
    """
    return margin_gradient(logits_fn, image, label=label, chunk=chunk).norm


class LipschitzEstimate(NamedTuple):
    """Margin gradients of a set of images, summarised.

    Attributes
    ----------
    images
        Number of images.
    mean, maximum
        Mean and maximum of the gradient norms of all images, zeros included, in logits per unit of input.
    zero_gradients
        Number of images at which the gradient is exactly zero.
    mean_distance
        Mean first-order distance, margin / norm, over the images with a gradient, in units of input; None: no
        image has one.
    """

    images: int
    mean: float
    maximum: float
    zero_gradients: int
    mean_distance: float | None


@measurement
def lipschitz_estimate(
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    label: Int[Array, " batch"] | None = None,
    chunk: int | None = None,
) -> LipschitzEstimate:
    r"""Return a lower estimate of the Lipschitz constant of a classifier's margin, from a set of images.

    It refuses the same input as :func:`margin_gradient`.

    Parameters
    ----------
    logits_fn, image, label, chunk
        The arguments of :func:`margin_gradient`.

    Notes
    -----
    The Lipschitz constant of a margin is the supremum of its gradient norm over the whole input space; the
    maximum over some images can only be smaller, and says nothing about the points between them. It is an
    estimate, not a certificate. Since :math:`\lVert\nabla(f_a - f_b)\rVert \le \sqrt2 L` where :math:`L` is
    the Lipschitz constant of the logits, ``maximum`` over :math:`\sqrt2` bounds :math:`L` from below too.
    Logits scaled by c scale the norms by c and leave the distance.
    """
    found = margin_gradient(logits_fn, image, label=label, chunk=chunk)
    norm, distance = tensor_of(found.norm), tensor_of(found.distance)
    steep = norm > 0
    count = int(steep.sum())
    return LipschitzEstimate(
        images=len(image),
        mean=float(norm.mean()),
        maximum=float(norm.max()),
        zero_gradients=len(image) - count,
        mean_distance=float(distance[steep].mean()) if count else None,
    )
