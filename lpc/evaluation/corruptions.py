"""Corrupted images: noise, blur, low contrast and rotation at five strengths, and the accuracy on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.arrays import as_float64, as_labels
from lpc.numerics import measurement
from lpc.threads import by_work

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
"""What a strength is of each kind."""
_LIGHTEST = 1e-3
"""A blur of a smaller sd, in pixels, has a kernel of one pixel."""


class Corrupted(NamedTuple):
    """Accuracy on corrupted images.

    Attributes
    ----------
    kind
        A key of :data:`STRENGTHS`.
    level
        1 to 5, mildest first.
    strength
        In the kind's unit.
    accuracy
        Share of the images that are classified as labelled.
    """

    kind: str
    level: int
    strength: float
    accuracy: float


@measurement
def corrupted(
    image: Float[Tensor, "batch channel row column"], kind: str, strength: float, *, seed: int = 0
) -> Float[Tensor, "batch channel row column"]:
    """Return images with one corruption, of the same shape, dtype and device, within [0, 1].

    Parameters
    ----------
    image
        Pixels in [0, 1]; square or not, of any size.
    kind
        ``"noise"``: Gaussian, clipped to [0, 1]. ``"blur"``: Gaussian, of a kernel cut at three sd or where
        the image ends, mirrored at the border. ``"contrast"``: each image drawn towards the mean of its grey
        values. ``"rotation"``: about the centre, each image one way or the other by chance, bilinear, black
        where nothing is known.
    strength
        The noise's sd; the blur's sd over the shorter side; the share of contrast that is kept; degrees.
    seed
        Of the noise and of the directions, drawn on the CPU; torch's global state is left alone.

    Raises
    ------
    ValueError
        Pixels outside [0, 1] (index and value), images of other than 1 or 3 channels, an unknown kind, a
        strength that is negative or not finite.

    References
    ----------
    Hendrycks and Dietterich 2019, for noise, blur and contrast; their strengths of blur are in pixels.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    if kind not in STRENGTHS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(STRENGTHS)}")
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"strength is {strength}; expected a finite number, 0 or more")
    _check_pixels(image)
    if kind == "contrast":
        return transforms.adjust_contrast(image, strength).clamp(0, 1)
    if kind == "blur":
        return _blurred(image, strength * min(image.shape[-2:]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "noise":
            return transforms.gaussian_noise(image.cpu(), sigma=strength, clip=True).to(image.device)
        left = (torch.rand(len(image)) < 0.5).to(image.device)
    turned = image.clone()
    for which, angle in ((left, strength), (~left, -strength)):
        turned[which] = transforms.rotate(image[which], angle, interpolation=InterpolationMode.BILINEAR)
    return turned.clamp(0, 1)


def _blurred(image: Tensor, sd: float) -> Tensor:
    """Return images blurred by so many pixels."""
    from torchvision.transforms.v2 import functional as transforms

    if sd < _LIGHTEST:
        return image.clone()
    sizes = [2 * min(math.ceil(3 * sd), side - 1) + 1 for side in (image.shape[-1], image.shape[-2])]
    return transforms.gaussian_blur(image, sizes, [sd, sd]).clamp(0, 1)


def _check_pixels(image: Tensor) -> None:
    values = as_float64(image, name="image", dims=4)
    outside = torch.nonzero((values < 0) | (values > 1))
    if len(outside):
        place = tuple(outside[0].tolist())
        raise ValueError(f"image holds {float(values[place])} at index {place}; expected pixels in [0, 1]")
    if image.shape[1] not in (1, 3):
        raise ValueError(f"image has {image.shape[1]} channels; expected 1 or 3")


@measurement
def corrupted_accuracy(
    logits_fn: Callable[[Tensor], Tensor],
    image: Float[Tensor, "batch channel row column"],
    label: Int[Tensor, " batch"],
    *,
    strengths: Mapping[str, tuple[float, ...]] = STRENGTHS,
    seed: int = 0,
    chunk: int = 1000,
) -> list[Corrupted]:
    """Return the accuracy on images under every kind of corruption at every strength.

    Parameters
    ----------
    logits_fn
        Maps pixels in [0, 1] to (batch, classes): normalisation is its own.
    image, label
        Of the test set.
    strengths
        Kinds and what is done of each, mildest first.
    seed
        As in :func:`corrupted`, plus the level's place among all: noises of two levels are not the same.
    chunk
        Most images in one call of ``logits_fn``.

    Raises
    ------
    ValueError
        As :func:`corrupted`; labels that do not fit; logits that are not finite.
    """
    label = as_labels(label, image).to(image.device)
    found, logits_fn = [], by_work(logits_fn)
    for kind, values in strengths.items():
        for level, strength in enumerate(values, start=1):
            changed = corrupted(image, kind, strength, seed=seed + len(found))
            right = 0
            for some, own in zip(changed.split(chunk), label.split(chunk), strict=True):
                with torch.no_grad():
                    logits = logits_fn(some)
                if logits.ndim != 2 or len(logits) != len(some) or not bool(torch.isfinite(logits).all()):
                    raise ValueError(
                        f"logits_fn gave shape {tuple(logits.shape)} for {len(some)} images under {kind} "
                        f"{strength}, or NaN or infinity; expected finite (batch, classes)"
                    )
                right += int((logits.argmax(dim=1) == own).sum())
            found.append(Corrupted(kind, level, strength, right / len(image)))
    return found
