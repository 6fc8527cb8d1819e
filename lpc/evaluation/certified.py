"""Radii within which a network's decision provably does not change, and estimates without proof."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lpc.arrays import CHUNK_BYTES, Array, ArrayT, images_at_once
from lpc.computing.numerics import measurement
from lpc.errors import missing_extra
from lpc.evaluation._networks.networks import as_images, given
from lpc.evaluation._networks.unrolled_layers import activation_of
from lpc.evaluation.affine_layers import AffineLayers

Method = Literal["spectral", "interval", "crown"]
METHODS: tuple[Method, ...] = ("spectral", "interval", "crown")
"""Methods, usually loosest first; only CROWN's radius is never below the spectral one by construction."""
_ROUNDING = 1e-9
"""Share of the margin that a bound must exceed to be taken for positive: far above float64's rounding."""
_AIM = 1e-7
"""Share of the margin that the search aims at: at zero, rounding would decide whether a radius is proved."""


@cache
def silu_lipschitz() -> float:
    r"""Return SiLU's Lipschitz constant, its greatest slope: 1.0998...

    Notes
    -----
    :math:`\sigma(x)(1 + x(1 - \sigma(x)))` is greatest where its derivative vanishes,
    :math:`x \tanh(x/2) = 2`. An error of the root enters squared; the last digit is rounded up.
    """
    from scipy.optimize import brentq

    x = brentq(lambda value: value * math.tanh(value / 2) - 2, 1.0, 4.0, xtol=1e-15)
    gate = 1 / (1 + math.exp(-x))
    return math.nextafter(gate * (1 + x * (1 - gate)), math.inf)


@measurement
def lipschitz_bound(network: AffineLayers) -> float:
    r"""Return an upper bound of the Lipschitz constant of a network's logits, in Euclidean norms.

    Parameters
    ----------
    network
        Network from :func:`~lpc.evaluation.affine_layers.affine_layers`.

    Notes
    -----
    :math:`\prod_i \lVert W_i\rVert_2 \prod_i \mathrm{Lip}(\phi_i)`, in logits per unit of input. It is
    proportional to the logits' scale.

    References
    ----------
    Szegedy et al. 2014, Intriguing properties of neural networks, Section 4.3; LPC 2024, Eq. 4.
    """
    _check_layers(network)
    return _hidden_lipschitz(network) * float(torch.linalg.matrix_norm(network.weight[-1], 2))


def _hidden_lipschitz(network: AffineLayers) -> float:
    """Return the bound of :func:`lipschitz_bound` for the layers before the last map."""
    bound = 1.0
    for weight, activation in zip(network.weight, network.activation, strict=False):
        slope = silu_lipschitz() if activation.startswith("silu") else 1.0
        bound *= float(torch.linalg.matrix_norm(weight, 2)) * slope
    return bound


@measurement
def certified_radius(
    network: AffineLayers,
    image: Float[ArrayT, " batch *shape"],
    *,
    method: Method = "crown",
    evaluations: int = 8,
    chunk: int | None = None,
) -> Float64[ArrayT, " batch"]:
    r"""Return a radius for each image within which no perturbation changes the network's decision.

    Parameters
    ----------
    network
        Network from :func:`~lpc.evaluation.affine_layers.affine_layers`; the radius has the unit of its
        input.
    image
        Images at the centres of the balls, float32 or float64.
    method
        Kind of bound. ``"spectral"``: the smallest of the decision's margins over the norm of the classes'
        weight difference and the Lipschitz constant of the layers before, a product over layers.
        ``"interval"``: interval bound propagation, from the exact range of the first map over the ball.
        ``"crown"``: linear bounds, at least the spectral radius. The last two need the extra ``certified``.
    evaluations
        Number of radii that the last two try; the result is the largest at which the bound is positive.
    chunk
        Largest number of images per pass; None: as many as have bounds of :data:`~lpc.arrays.CHUNK_BYTES`.

    Returns
    -------
    array
        Euclidean radii, float64, same kind of array as ``image``; 0 if two classes share the largest logit,
        infinite (spectral) if no other class's logit can ever reach the decision's.

    Raises
    ------
    ValueError
        If images or options are invalid, the method is unknown, the network is no AffineLayers, logits are
        not finite, or ``torch.inference_mode`` is on.
    ModuleNotFoundError
        If bound-propagation is not installed.

    Notes
    -----
    The method bounds :math:`f_y - f_k` for every class k except the decision y, over the ball of Euclidean
    radius r. It is computed in float64 and not rounded outward; it counts as positive above 1e-9 of the
    margin. Radii are proved for any perturbation, also one that leaves the box of valid pixels. Scaling the
    last map scales margins and bounds alike and leaves every radius.

    The tried radii follow the secant through the bounds at the largest radius that is proved and the smallest
    that is not, the latter's halved where it stays (the Illinois method).

    References
    ----------
    Tsuzuku, Sato and Sugiyama 2018, Lipschitz-margin training (spectral); Gowal et al. 2018 (interval); Zhang
    et al. 2018 (CROWN).
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}; expected 1 or more")
    _check_layers(network)
    chunk = images_at_once(image, _chunk(network) if chunk is None else chunk)
    parts = as_images(image).split(chunk)
    return given(torch.cat([_radii(network, part, method, evaluations) for part in parts]), image)


def _check_layers(network: object) -> None:
    """Raise a ValueError for anything but :class:`~lpc.evaluation.affine_layers.AffineLayers`."""
    if not isinstance(network, AffineLayers):
        raise ValueError(
            f"network is a {type(network).__name__}; expected AffineLayers: affine_layers(model) makes them "
            "from a dense network"
        )


def _chunk(network: AffineLayers) -> int:
    """Return the number of images whose bounds, one row per node of the widest layer, fit into a chunk."""
    widest = max(weight.shape[1] for weight in network.weight)
    return max(1, CHUNK_BYTES // (8 * widest**2))


def _radii(
    network: AffineLayers, image: Tensor, method: Method, evaluations: int
) -> Float64[Tensor, " batch"]:
    """Return the radii of some images."""
    weight, bias, margin = differences(network, image)
    reach = _hidden_lipschitz(network) * torch.linalg.vector_norm(weight, dim=-1)
    spectral = torch.where(margin > 0, margin / reach, 0.0).amin(dim=1)  # over 0: never, at a positive margin
    if method == "spectral":
        return spectral
    bounds = _hidden_bounds(network)
    bound = bounds.crown if method == "crown" else bounds.interval
    centre = image.to(weight).flatten(start_dim=1)
    least = margin.amin(dim=1)

    def certainty(radius: Tensor) -> Tensor:
        return (
            bound(centre, radius, weight, bias).amin(dim=1) / torch.where(least > 0, least, 1.0) - _ROUNDING
        )

    first = _first_order(network, image, spectral)
    found = torch.where(least > 0, _largest(certainty, first, evaluations), 0.0)
    return torch.maximum(found, spectral) if method == "crown" else found


@measurement
def differences(
    network: AffineLayers, image: Float[Array, " batch *shape"]
) -> tuple[
    Float64[Tensor, "batch others hidden"], Float64[Tensor, "batch others"], Float64[Tensor, "batch others"]
]:
    """Return the last map's row of each image's decision minus the row of every other class.

    Parameters
    ----------
    network
        Network from :func:`~lpc.evaluation.affine_layers.affine_layers`.
    image
        Images in the network's input units.

    Returns
    -------
    weight, bias, margin
        Differences of logits as linear forms of the last hidden layer, and their values at the image.
    """
    _check_layers(network)
    logits = network(image)
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(
            f"the network's logits are NaN or infinite for image {int(torch.nonzero(~finite)[0])}"
        )
    classes, decision = logits.shape[1], logits.argmax(dim=1)
    other = _others(decision, classes)
    weight = network.weight[-1][decision][:, None] - network.weight[-1][other]
    bias = network.bias[-1][decision][:, None] - network.bias[-1][other]
    return weight, bias, logits.gather(1, decision[:, None]) - logits.gather(1, other)


def _others(decision: Int64[Tensor, " batch"], classes: int) -> Int64[Tensor, "batch others"]:
    """Return all classes but the decision, one row per image."""
    place = torch.arange(classes - 1, device=decision.device).expand(len(decision), -1)
    return place + (place >= decision[:, None])


def _hidden_bounds(network: AffineLayers):
    try:
        from lpc.evaluation._networks.linear_relaxation import HiddenBounds
    except ModuleNotFoundError as error:
        raise missing_extra("an interval or CROWN bound", ["bound-propagation"], "certified") from error
    return HiddenBounds(network)


def _first_order(network: AffineLayers, image: Tensor, spectral: Tensor) -> Float64[Tensor, " batch"]:
    """Return the first radius of the search: half the distance to the boundary of the linearised logits."""
    distance = gradient_radius(network, image) / 2
    there = torch.isfinite(distance) & (distance > 0)
    return torch.where(there, distance, torch.where(torch.isfinite(spectral), spectral, 1.0).clamp(min=1e-12))


def _largest(certainty: Callable[[Tensor], Tensor], first: Tensor, evaluations: int) -> Tensor:
    """Return the largest tried radius of each image whose bound is positive; 0 if none is."""
    proved, open_ = torch.zeros_like(first), torch.full_like(first, torch.inf)
    at_proved, at_open = torch.ones_like(first), torch.zeros_like(first)  # in units of the margin
    last = torch.zeros_like(first)
    radius = first
    for _ in range(evaluations):
        value = certainty(radius)
        holds = value > 0
        at_open = torch.where(holds & (last > 0), at_open / 2, at_open)
        at_proved = torch.where(~holds & (last < 0), at_proved / 2, at_proved)
        proved, at_proved = torch.where(holds, radius, proved), torch.where(holds, value, at_proved)
        open_, at_open = torch.where(holds, open_, radius), torch.where(holds, at_open, value)
        last = torch.where(holds, 1.0, -1.0).to(last)
        share = ((at_proved - _AIM) / (at_proved - at_open)).clamp(0.02, 0.98)
        radius = torch.where(torch.isinf(open_), 2 * proved, proved + share * (open_ - proved))
    return proved


@measurement
def gradient_radius(
    network: AffineLayers, image: Float[ArrayT, " batch *shape"]
) -> Float64[ArrayT, " batch"]:
    r"""Return an estimate: the distance to the nearest boundary of the logits linearised at the image.

    Parameters
    ----------
    network
        Network from :func:`~lpc.evaluation.affine_layers.affine_layers`.
    image
        Images in the network's input units.

    Notes
    -----
    :math:`\min_{k\ne y} (f_y - f_k) / \lVert\nabla(f_y - f_k)\rVert_2`: DeepFool's first step. It is exact
    where the logits are affine, and elsewhere proves nothing: the gradient may be steeper, or flatter, next
    to the image. Infinite where all gradients vanish.
    """
    return sampled_radius(network, image, reach=0.0, samples=1, generator=torch.Generator())


@measurement
def sampled_radius(
    network: AffineLayers,
    image: Float[ArrayT, " batch *shape"],
    *,
    reach: float | Float[Array, " batch"],
    samples: int,
    generator: torch.Generator,
) -> Float64[ArrayT, " batch"]:
    r"""Return an estimate: margin over the largest gradient norm among points sampled in a ball.

    Parameters
    ----------
    network
        Network from :func:`~lpc.evaluation.affine_layers.affine_layers`.
    image
        Images in the network's input units, float32 or float64.
    reach
        Radius of the ball that is sampled uniformly, one for all images or one per image; 0: the image alone.
    samples
        Number of samples per image.
    generator
        Generator of the samples, which are drawn on its device.

    Notes
    -----
    :math:`\min_{k\ne y} (f_y - f_k) / \max_j \lVert\nabla(f_y - f_k)(x_j)\rVert_2`. With the true maximum
    over a ball as large as the result this would be a certificate; the maximum of samples lies below it.
    CLEVER extrapolates it by a fit, which makes it a better estimate and no more of a bound.

    References
    ----------
    Hein and Andriushchenko 2017 (the bound with the true maximum); Weng et al. 2018 (CLEVER).
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; expected 1 or more")
    _check_layers(network)
    images_at_once(image, None)
    pixels = as_images(image)
    weight, _, margin = differences(network, pixels)
    centre = pixels.to(weight).flatten(start_dim=1)
    size = torch.as_tensor(reach, dtype=torch.float64, device=centre.device).expand(len(centre))
    steepest = torch.zeros_like(margin)
    for _ in range(samples):
        place = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        drawn = torch.randn(centre.shape, **place)
        length = torch.rand(len(centre), **place) ** (1 / centre.shape[1])
        step = drawn * (length / torch.linalg.vector_norm(drawn, dim=1))[:, None]
        gradient = _gradients(network, centre + size[:, None] * step.to(centre), weight)
        steepest = torch.maximum(steepest, torch.linalg.vector_norm(gradient, dim=-1))
    return given(torch.where(margin > 0, margin / steepest, 0.0).amin(dim=1), image)


def _gradients(
    network: AffineLayers,
    point: Float64[Tensor, "batch inputs"],
    weight: Float64[Tensor, "batch others hidden"],
) -> Float64[Tensor, "batch others inputs"]:
    """Return the gradients of the forms ``weight @ hidden`` at the points."""
    slopes, value = [], point
    for matrix, bias, activation in zip(network.weight, network.bias, network.activation, strict=False):
        with torch.enable_grad():
            before = (value @ matrix.T + bias).requires_grad_()
            after = activation_of(activation)(before)
            slopes.append(torch.autograd.grad(after.sum(), before)[0])
        value = after.detach()
    for matrix, slope in zip(reversed(network.weight[:-1]), reversed(slopes), strict=True):
        weight = (weight * slope[:, None]) @ matrix
    return weight
