"""Checks before an attack, and variants of the network on which it is repeated."""

from __future__ import annotations

import copy
import math
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lpc.arrays import Array, as_float64
from lpc.evaluation._networks import tables
from lpc.evaluation._networks.networks import Logits, Network, check_evaluation_mode, given, guarded
from lpc.inputs.networks import logits_of

Box = tuple[float, float]
Norm = Literal["l2", "linf"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def check_target(
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    box: Box | None = (0.0, 1.0),
    model: nn.Module | None = None,
) -> Float[Array, "batch classes"]:
    """Return the logits of the images, or raise an error that says why an attack on them is meaningless.

    Parameters
    ----------
    logits_fn
        Function from images to logits (batch, classes), each image independent of the others; it returns a
        tensor, or holds one as ``logits``.
    image
        Images, shape (batch, channels, rows, columns), or table rows, shape (batch, features); float32 or
        float64.
    box
        Lowest and highest possible value of a pixel; None: unbounded.
    model
        Network behind ``logits_fn``. Its modules, like any others found behind ``logits_fn``, must be in
        evaluation mode.

    Raises
    ------
    ValueError
        If a module is in training mode (named); an image lies outside the box (the message gives index, value
        and box); there are no logits, or they have another shape, are not finite, or are the same for all
        classes of an image or for several images; or the logits depend on the other images of a batch or on
        chance, as in training mode.
    """
    logits_fn, image = tables.of_images(logits_fn, image)
    check_images(image, box, name="image")
    if model is not None:
        check_evaluation_mode(model)
    with guarded(logits_fn, image, gradients=False, dims=4) as network:
        return given(decided(network), image)


def decided(network: Network) -> Float[Tensor, "batch classes"]:
    """Return the logits of a network's images, or raise an error if there is no decision to change."""
    image = network.image
    with torch.no_grad():
        logits = network(image)
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(f"logits_fn gave NaN or infinity for image {int(torch.nonzero(~finite)[0])}")
    flat = logits.amax(dim=1) == logits.amin(dim=1)
    if bool(flat.any()):
        index = int(torch.nonzero(flat)[0])
        raise ValueError(
            f"the logits of {int(flat.sum())} of {len(image)} images are the same for all classes; the first "
            f"is image {index}, with {float(logits[index, 0])}: there is no decision to change"
        )
    if bool((logits == logits[0]).all()) and bool((image != image[0]).any()):
        raise ValueError(
            f"the logits of all {len(image)} images are the same, {logits[0].tolist()}: "
            "the network does not look at its input"
        )
    return logits


def without_gradient(network: Network) -> tuple[Bool[Tensor, " batch"], bool]:
    """Return the images at which no logit moves relative to another, and whether no path leads to any image.

    The check uses one random combination of the logits, with weights that add up to zero: its gradient
    vanishes where those of all differences do, and elsewhere only by chance.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.enable_grad():
        leaf = network.image.detach().clone().requires_grad_()
        logits = network(leaf)
    nowhere = torch.ones(len(leaf), dtype=torch.bool, device=leaf.device)
    if not logits.requires_grad:
        return nowhere, True
    weight = torch.randn(logits.shape[1], generator=generator, dtype=torch.float64, device="cpu")
    weight = (weight - weight.mean()).to(logits).expand_as(logits)
    (gradient,) = torch.autograd.grad(logits, leaf, weight, allow_unused=True)
    if gradient is None:
        return nowhere, True
    return (gradient.flatten(start_dim=1) == 0).all(dim=1), False


def check_images(image: Array, box: Box | None, *, name: str) -> None:
    """Raise a ValueError unless images are (batch, channel, row, column) and inside the box."""
    image = as_float64(image, name=name, dims=4)
    if box is None:
        return
    low, high = box
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"box={box}; expected a lower and a higher finite value, or None")
    outside = (image < low) | (image > high)
    if bool(outside.any()):
        index = tuple(torch.nonzero(outside)[0].tolist())
        raise ValueError(
            f"{int(outside.flatten(1).any(dim=1).sum())} of {len(image)} images of {name} leave the box "
            f"{box}; the first value is {float(image[index])} at index {index}"
        )


def rescaled(logits_fn: Logits, factor: float) -> Logits:
    """Return the network with its logits multiplied by a factor: the same decisions, another cross-entropy.

    Raises
    ------
    ValueError
        If the factor is not positive and finite.
    """
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor={factor}; expected a positive finite number")
    return lambda image: factor * logits_of(logits_fn(image))


def in_float64(model: ModuleT) -> ModuleT:
    """Return a copy of a network that computes in float64; the network itself stays as it is."""
    return copy.deepcopy(model).double()
