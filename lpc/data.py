"""Images held on the device as uint8, their splits, and augmentation by seeded tensor operations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from lpc.specs import DataSpec, unknown_name


@dataclass(frozen=True)
class Augment:
    """Random flips, crops and Gaussian noise for a batch; equal generator states give equal images.

    Attributes
    ----------
    flip
        Mirror each image with probability one half.
    crop_padding
        Pad with this many black pixels and crop back at a random place; 0: none.
    noise
        Standard deviation of the Gaussian noise added, in units of the normalised image.

    References
    ----------
    LPC 2024, Appendix C: flips, padding 4, noise 0.01.
    """

    flip: bool = False
    crop_padding: int = 0
    noise: float = 0.0

    def moved(
        self, images: UInt8[Tensor, "batch channel row column"], generator: torch.Generator
    ) -> UInt8[Tensor, "batch channel row column"]:
        """Return images flipped and cropped at random."""
        device, batch = images.device, images.shape[0]
        if self.flip:
            flipped = torch.rand(batch, generator=generator, device=device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        if self.crop_padding:
            pad, rows, columns = self.crop_padding, images.shape[-2], images.shape[-1]
            padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
            shift = torch.randint(2 * pad + 1, (2, batch), generator=generator, device=device)
            row = shift[0, :, None] + torch.arange(rows, device=device)
            column = shift[1, :, None] + torch.arange(columns, device=device)
            point = torch.arange(batch, device=device)[:, None, None]
            images = padded[point, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
        return images

    def noisy(
        self, images: Float[Tensor, "batch channel row column"], generator: torch.Generator
    ) -> Float[Tensor, "batch channel row column"]:
        """Return normalised images with Gaussian noise added."""
        if not self.noise:
            return images
        return images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as uint8, with the normalisation of the train set they belong to.

    Attributes
    ----------
    images
        (images, channel, row, column), uint8.
    label
        (images,), int64, from 0 to ``classes - 1``.
    classes
        Number of classes.
    mean, sd
        Of the train set's pixels in [0, 1], one a channel.
    """

    images: UInt8[Tensor, "images channel row column"]
    label: Int[Tensor, " images"]
    classes: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.images.shape[1]

    @property
    def size(self) -> int:
        """Pixels along one side of an image."""
        return self.images.shape[-1]

    def normalised(
        self, index: Int[Tensor, "*batch"] | slice = slice(None)
    ) -> Float[Tensor, "*batch channel row column"]:
        """Return the chosen images as float32, minus the train set's mean, over its sd."""
        return self._normalise(self.images[index])

    def augmented(
        self, index: Int[Tensor, " batch"], augment: Augment, generator: torch.Generator
    ) -> Float[Tensor, "batch channel row column"]:
        """Return the chosen images flipped and cropped, then normalised, then with noise added."""
        return augment.noisy(self._normalise(augment.moved(self.images[index], generator)), generator)

    def _normalise(self, images: Tensor) -> Tensor:
        mean, sd = (
            torch.tensor(value, device=images.device)[:, None, None] for value in (self.mean, self.sd)
        )
        return (images.float() / 255 - mean) / sd

    def checksum(self) -> str:
        """Return the SHA-256 of the images and labels, for a run's provenance."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.label.cpu().numpy().tobytes())
        return digest.hexdigest()


class Splits(NamedTuple):
    """Train, validation (None where none is held out) and test images."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet


class RawImages(NamedTuple):
    """What a loader returns: train and test images as uint8 (images, channel, row, column) and labels."""

    train_images: np.ndarray
    train_label: np.ndarray
    test_images: np.ndarray
    test_label: np.ndarray


def _digits() -> RawImages:
    """scikit-learn's 1,797 digits of 8 x 8 pixels; a fixed fifth of every class is the test set."""
    pixels, label = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=label)
    return RawImages(images[train], label[train], images[test], label[test])


LOADERS: Mapping[str, Callable[[], RawImages]] = {"digits": _digits}
"""Data sets that need no download. Each entry returns the official train and test images."""


def _hold_out(label: np.ndarray, size: int, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted indices (kept, held out), stratified by class."""
    classes = len(np.unique(label))
    if not classes <= size <= len(label) - classes:
        raise ValueError(
            f"{what} asks for {size} of {len(label)} training images; "
            f"expected {classes} (one a class) to {len(label) - classes}"
        )
    kept, held = train_test_split(np.arange(len(label)), test_size=size, random_state=seed, stratify=label)
    return np.sort(kept), np.sort(held)


def load_images(spec: DataSpec, *, device: torch.device | str = "cpu") -> Splits:
    """Load, split and place a data set on a device.

    Parameters
    ----------
    spec
        Data set, held-out validation images, training limit.
    device
        Where the uint8 images stay.

    Returns
    -------
    Splits
        Normalised by the mean and sd of the images that are trained on.

    Raises
    ------
    ValueError
        An unknown data set, or a validation set or limit that does not fit it.
    """
    if spec.name not in LOADERS:
        raise unknown_name("data set", spec.name, LOADERS)
    raw = LOADERS[spec.name]()
    train, held = np.arange(len(raw.train_label)), None
    if spec.validation:
        train, held = _hold_out(raw.train_label, spec.validation, spec.split_seed, "DataSpec.validation")
    if spec.train_limit is not None and spec.train_limit < len(train):
        _, chosen = _hold_out(
            raw.train_label[train], spec.train_limit, spec.split_seed, "DataSpec.train_limit"
        )
        train = train[chosen]
    pixels = raw.train_images[train].astype(np.float64) / 255
    mean = tuple(float(value) for value in pixels.mean(axis=(0, 2, 3)))
    sd = tuple(float(value) for value in pixels.std(axis=(0, 2, 3)))
    classes = int(raw.train_label.max()) + 1

    def place(images: np.ndarray, label: np.ndarray) -> ImageSet:
        return ImageSet(
            torch.from_numpy(np.ascontiguousarray(images)).to(device),
            torch.from_numpy(label.astype(np.int64)).to(device),
            classes,
            mean,
            sd,
        )

    return Splits(
        train=place(raw.train_images[train], raw.train_label[train]),
        validation=None if held is None else place(raw.train_images[held], raw.train_label[held]),
        test=place(raw.test_images, raw.test_label),
    )


def batches(points: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Yield one epoch of shuffled index batches; the last may be smaller.

    Parameters
    ----------
    points, size
        Number of points and of points a batch.
    generator
        Draws the order, on its own device.
    """
    yield from torch.randperm(points, generator=generator, device=generator.device).split(size)
