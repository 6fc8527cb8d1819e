"""Corrupted images: noise, blur, low contrast and rotation at five strengths, and the accuracy on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.arrays import Array, ArrayT, as_labels
from lpc.computing.numerics import measurement
from lpc.computing.options import number, whole
from lpc.evaluation._networks.networks import Logits, Network, as_images, given, guarded

STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (0.03, 0.06, 0.09, 0.12, 0.15),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "rotation": (10.0, 20.0, 30.0, 40.0, 50.0),
}
"""Five strengths of each kind, mildest first, in :data:`UNITS`; noise and contrast are ImageNet-C's."""
UNITS: Mapping[str, str] = {
    "noise": "sd, in the range of pixels",
    "blur": "sd, in sides of the image",
    "contrast": "contrast kept",
    "rotation": "degrees",
}
"""Unit of the strength of each kind."""
_LIGHTEST = 1e-3
"""Smallest sd in pixels that blurs; below it the kernel is one pixel."""


class Corrupted(NamedTuple):
    """Accuracy on corrupted images.

    Attributes
    ----------
    kind
        Kind of corruption, a key of :data:`STRENGTHS`.
    level
        Level from 1 to 5, mildest first.
    strength
        Strength in the kind's unit.
    accuracy
        Share of the images that are classified as labelled.
    """

    kind: str
    level: int
    strength: float
    accuracy: float


@measurement
def corrupted(
    image: Float[ArrayT, "batch channel row column"], kind: str, strength: float, *, seed: int = 0
) -> Float[ArrayT, "batch channel row column"]:
    """Return images with one corruption, of the same shape, dtype, kind and device, within [0, 1].

    Parameters
    ----------
    image
        Images with pixels in [0, 1], of any size and aspect.
    kind
        Kind of corruption. ``"noise"``: Gaussian, clipped to [0, 1]. ``"blur"``: Gaussian, with a kernel cut
        at three sd or at the image's size, mirrored at the border. ``"contrast"``: each image moved towards
        the mean of its grey values. ``"rotation"``: about the centre, in a random direction for each image,
        bilinear, black outside the image.
    strength
        Strength: sd of the noise; sd of the blur over the shorter side; share of contrast that is kept;
        degrees.
    seed
        Seed of the noise and of the directions, drawn on the CPU; torch's own generators are left alone.

    Raises
    ------
    ValueError
        If pixels lie outside [0, 1] (the message gives index and value), images do not have 1 or 3 channels,
        the kind is unknown, or the strength is negative or not finite.

    References
    ----------
    Hendrycks and Dietterich 2019, for noise, blur and contrast; their strengths of blur are in pixels.
    """
    if kind not in STRENGTHS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(STRENGTHS)}")
    strength = number("strength", strength, least=0)
    pixels = as_images(image, dims=4)
    _check_pixels(pixels)
    return given(_changed(pixels, kind, strength, seed), image)


def _changed(image: Tensor, kind: str, strength: float, seed: int) -> Tensor:
    """Return corrupted images after the checks of :func:`corrupted`."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    if kind == "contrast":
        return transforms.adjust_contrast(image, strength).clamp(0, 1)
    if kind == "blur":
        return _blurred(image, strength * min(image.shape[-2:]))
    generator = torch.Generator("cpu").manual_seed(seed)
    if kind == "noise":
        drawn = torch.randn(image.shape, dtype=image.dtype, generator=generator, device="cpu")
        return (image + (strength * drawn).to(image.device)).clamp(0, 1)
    left = (torch.rand(len(image), dtype=torch.float32, generator=generator, device="cpu") < 0.5).to(
        image.device
    )
    turned = image.clone()
    for which, angle in ((left, strength), (~left, -strength)):
        turned[which] = transforms.rotate(image[which], angle, interpolation=InterpolationMode.BILINEAR)
    return turned.clamp(0, 1)


def _blurred(image: Tensor, sd: float) -> Tensor:
    """Return images blurred with an sd in pixels."""
    from torchvision.transforms.v2 import functional as transforms

    if sd < _LIGHTEST:
        return image.clone()
    sizes = [2 * min(math.ceil(3 * sd), side - 1) + 1 for side in (image.shape[-1], image.shape[-2])]
    return transforms.gaussian_blur(image, sizes, [sd, sd]).clamp(0, 1)


def _check_pixels(image: Tensor) -> None:
    outside = torch.nonzero((image < 0) | (image > 1))
    if len(outside):
        place = tuple(outside[0].tolist())
        raise ValueError(f"image holds {float(image[place])} at index {place}; expected pixels in [0, 1]")
    if image.shape[1] not in (1, 3):
        raise ValueError(f"image has {image.shape[1]} channels; expected 1 or 3")


@measurement
def corrupted_accuracy(
    logits_fn: Logits,
    image: Float[Array, "batch channel row column"],
    label: Int[Array, " batch"],
    *,
    strengths: Mapping[str, tuple[float, ...]] = STRENGTHS,
    seed: int = 0,
    chunk: int = 1000,
) -> list[Corrupted]:
    """Return the accuracy on images under every kind of corruption at every strength.

    Parameters
    ----------
    logits_fn
        Function from pixels in [0, 1] to logits (batch, classes), in evaluation mode; it normalises the
        pixels itself. It returns a tensor, or holds one as ``logits``.
    image, label
        Images and labels of the test set; arrays are moved to the network's device.
    strengths
        Strengths of each kind of corruption, mildest first.
    seed
        Seed as in :func:`corrupted`, to which the level's position is added: noises of two levels differ.
    chunk
        Largest number of images per call of ``logits_fn``.

    Raises
    ------
    ValueError
        As in :func:`corrupted`; also if labels do not match, logits are not finite, the network is in
        training mode, or its logits depend on chance or on the other images.
    """
    chunk = whole("chunk", chunk)
    with guarded(logits_fn, image, gradients=False, dims=4, chunk=chunk) as network, torch.no_grad():
        return _accuracies(network, as_labels(label, network.image), strengths, seed=seed, chunk=chunk)


def _accuracies(
    network: Network, label: Tensor, strengths: Mapping[str, tuple[float, ...]], *, seed: int, chunk: int
) -> list[Corrupted]:
    """Return the result of :func:`corrupted_accuracy` for a checked network."""
    found: list[Corrupted] = []
    for kind, values in strengths.items():
        for level, strength in enumerate(values, start=1):
            changed = corrupted(network.image, kind, strength, seed=seed + len(found))
            right = 0
            for some, own in zip(changed.split(chunk), label.split(chunk), strict=True):
                logits = network(some)
                if not bool(torch.isfinite(logits).all()):
                    raise ValueError(f"logits_fn gave NaN or infinity for an image under {kind} {strength}")
                right += int((logits.argmax(dim=1) == own).sum())
            found.append(Corrupted(kind, level, strength, right / len(label)))
    return found
