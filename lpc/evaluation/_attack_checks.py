"""What is looked at before an attack starts, and the networks that it is repeated on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpc.arrays import as_float64

Logits = Callable[[Tensor], Tensor]
Box = tuple[float, float]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

SAME = 1e-2
"""Logits of an image that differ by more of the logits' range between two calls are not a function of it."""


def check_target(
    logits_fn: Logits,
    image: Float[Tensor, "batch channel row column"],
    *,
    box: Box | None = (0.0, 1.0),
    model: nn.Module | None = None,
) -> Float[Tensor, "batch classes"]:
    """Return the logits of the images, or say why an attack on them would mean nothing.

    Parameters
    ----------
    logits_fn
        Maps images to logits (batch, classes), each image by itself.
    image
        float32 or float64.
    box
        Lowest and highest value that a pixel can have; None: any.
    model
        The network behind ``logits_fn``, whose modules must be in evaluation mode. Where ``logits_fn`` is
        itself a module, it is looked at as well.

    Raises
    ------
    ValueError
        A module in training mode (its name); an image outside the box (index, value, box); logits of another
        shape, not finite, the same for all classes of an image or for all of several images; logits that
        depend on the other images of a batch or on chance, as in training mode.
    """
    for module in (model, logits_fn):
        if isinstance(module, nn.Module):
            check_evaluation_mode(module)
    check_images(image, box, name="image")
    with torch.no_grad():
        logits = logits_fn(image)
        part = logits_fn(image[: max(1, len(image) // 2)])
    if logits.ndim != 2 or logits.shape[0] != len(image) or logits.shape[1] < 2:
        raise ValueError(
            f"logits_fn gave shape {tuple(logits.shape)} for {len(image)} images; expected (images, 2 or "
            "more classes)"
        )
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
    spread = float(logits.max() - logits.min())
    moved = float((part - logits[: len(part)]).abs().max())
    if moved > SAME * spread:
        raise ValueError(
            f"the logits of the first {len(part)} images moved by {moved:.3g} (all range over {spread:.3g}) "
            "when they were computed again without the others: is the network in training mode?"
        )
    return logits


def check_evaluation_mode(model: nn.Module) -> None:
    """Raise a ValueError that names the first module in training mode."""
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"module {name or 'the model itself'!r} ({type(module).__name__}) is in training mode; "
                "expected model.eval()"
            )


def check_images(image: Tensor, box: Box | None, *, name: str) -> None:
    """Raise a ValueError for images that are no (batch, channel, row, column), or outside the box."""
    as_float64(image, name=name, dims=4)
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
        A factor that is not positive and finite.
    """
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor={factor}; expected a positive finite number")
    return lambda image: factor * logits_fn(image)


def in_float64(model: ModuleT) -> ModuleT:
    """Return a copy of a network that computes in float64; the network itself stays as it is."""
    return copy.deepcopy(model).double()
