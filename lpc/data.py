"""Images held on the device as uint8, their splits, and augmentation by seeded tensor operations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lpc.datasets import RawImages, load_raw
from lpc.specs import DataSpec


@dataclass(frozen=True)
class Augment:
    """Random flips, crops and Gaussian noise for a batch; equal generator states give equal images.

    Attributes
    ----------
    flip
        Whether each image is mirrored with probability one half.
    crop_padding
        Width in pixels of the black border from which a random crop of the original size is taken; 0: no
        crops.
    noise
        Standard deviation of the added Gaussian noise, in units of the normalised image.

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
        """Return images flipped and cropped at random.

        Notes
        -----
        Images, followed by their mirror images, are laid out with their padding in one line of pixels. Every
        row of a crop is then a contiguous run, and one gather copies all of them.
        """
        if not (self.flip or self.crop_padding):
            return images
        device, (batch, channels, rows, columns), pad = images.device, images.shape, self.crop_padding
        chosen = torch.arange(batch, device=device)
        if self.flip:
            chosen = chosen + batch * (torch.rand(batch, generator=generator, device=device) < 0.5)
        down, right = torch.randint(2 * pad + 1, (2, batch), generator=generator, device=device)
        copies = 2 if self.flip else 1
        padded = images.new_zeros(copies, batch, channels, rows + 2 * pad, columns + 2 * pad)
        inner = padded[..., pad : pad + rows, pad : pad + columns]
        inner[0] = images
        if self.flip:
            inner[1] = images.flip(-1)
        plane = chosen[:, None] * channels + torch.arange(channels, device=device)
        row = plane[:, :, None] * (rows + 2 * pad) + down[:, None, None] + torch.arange(rows, device=device)
        first = row * (columns + 2 * pad) + right[:, None, None]
        runs = padded.flatten().unfold(0, columns, 1)
        return runs.index_select(0, first.flatten()).view(images.shape)

    def noisy(
        self, images: Float[Tensor, "batch channel row column"], generator: torch.Generator
    ) -> Float[Tensor, "batch channel row column"]:
        """Return normalised images with Gaussian noise added."""
        if not self.noise:
            return images
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return noise.mul_(self.noise).add_(images)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as uint8, with the normalisation of the train set they belong to.

    Attributes
    ----------
    images
        Pixels, shape (images, channels, rows, columns), uint8.
    label
        Class of each image, shape (images,), int64, from 0 to ``classes - 1``.
    classes
        Number of classes.
    mean
        Mean of each channel of the train set, in pixel values from 0 to 1.
    sd
        Standard deviation of each channel of the train set, in the same units.
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

    def pixels(
        self, index: Int[Tensor, " batch"] | slice = slice(None), *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch channel row column"]:
        """Return the chosen images with values from 0 to 1."""
        return self.images[index].to(dtype) / 255

    def normalised(
        self, index: Int[Tensor, "*batch"] | slice = slice(None)
    ) -> Float[Tensor, "*batch channel row column"]:
        """Return the chosen images as float32, minus the train set's mean, over its sd."""
        if isinstance(index, slice):
            return self._normalise(self.images[index])
        chosen = self.images.index_select(0, index.flatten())
        return self._normalise(chosen).view(*index.shape, *self.images.shape[1:])

    def normalise(
        self, pixels: Float[Tensor, "*batch channel row column"]
    ) -> Float[Tensor, "*batch channel row column"]:
        """Return images in [0, 1] minus the train set's mean, over its sd; dtype and device stay theirs."""
        mean, sd = self._moments(pixels)
        return (pixels - mean) / sd

    def in_pixels(
        self, normalised: Float[Tensor, "*batch channel row column"]
    ) -> Float[Tensor, "*batch channel row column"]:
        """Return normalised images with values from 0 to 1, the inverse of :meth:`normalise`."""
        mean, sd = self._moments(normalised)
        return normalised * sd + mean

    def change_in_pixels(
        self, change: Float[Tensor, "*batch channel row column"]
    ) -> Float[Tensor, "*batch channel row column"]:
        """Return a difference of normalised images as a difference of images in [0, 1]."""
        return change * self._moments(change)[1]

    def _moments(self, like: Tensor) -> Float[Tensor, "2 channel 1 1"]:
        """Return mean and sd in a tensor's dtype, on its device: copied once, as a GPU is waited for."""
        place = like.dtype, like.device
        if place not in self._kept:
            with torch.inference_mode(False):
                moments = torch.tensor([self.mean, self.sd], dtype=like.dtype, device=like.device)
            self._kept[place] = moments[:, :, None, None]
        return self._kept[place]

    @cached_property
    def _kept(self) -> dict[tuple[torch.dtype, torch.device], Tensor]:
        return {}

    def augmented(
        self, index: Int[Tensor, " batch"], augment: Augment, generator: torch.Generator
    ) -> Float[Tensor, "batch channel row column"]:
        """Return the chosen images flipped and cropped, then normalised, then with noise added."""
        images = augment.moved(self.images.index_select(0, index), generator)
        return augment.noisy(self._normalise(images), generator)

    @cached_property
    def _scale_and_shift(self) -> Float[Tensor, "2 channel 1 1"]:
        """Factor and offset of the pixel values, kept on the images' device."""
        mean, sd = (torch.tensor(value, dtype=torch.float64, device="cpu") for value in (self.mean, self.sd))
        values = torch.stack([1 / (255 * sd), -mean / sd])
        return values[:, :, None, None].float().to(self.images.device)

    def _normalise(
        self, images: UInt8[Tensor, "*batch channel row column"]
    ) -> Float[Tensor, "*batch channel row column"]:
        scale, shift = self._scale_and_shift
        return images.to(torch.float32, copy=True).mul_(scale).add_(shift)

    def checksum(self) -> str:
        """Return the SHA-256 of the images and labels, for a run's provenance."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.label.cpu().numpy().tobytes())
        return digest.hexdigest()


class Splits(NamedTuple):
    """Train, validation (None where none is held out) and test images.

    Attributes
    ----------
    train
        Training images.
    test
        The data set's own test images.
    validation
        Images held out from the train set; None: none were held out.
    """

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet


def _hold_out(label: np.ndarray, size: int, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted indices (kept, held out), stratified by class."""
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(label))
    if not classes <= size <= len(label) - classes:
        raise ValueError(
            f"{what} asks for {size} of {len(label)} training images; "
            f"expected {classes} (one per class) to {len(label) - classes}"
        )
    kept, held = train_test_split(np.arange(len(label)), test_size=size, random_state=seed, stratify=label)
    return np.sort(kept), np.sort(held)


def _padded(images: np.ndarray, size: int | None, name: str) -> np.ndarray:
    """Return images padded with black; an odd number of pixels puts one more below and on the right."""
    rows, columns = images.shape[-2:]
    if size is None or size == rows == columns:
        return images
    if size < max(rows, columns):
        raise ValueError(
            f"DataSpec.size is {size}; expected {max(rows, columns)} or more, or None: "
            f"images of {name!r} have {rows} x {columns} pixels"
        )
    sides = [((size - length) // 2, (size - length + 1) // 2) for length in (rows, columns)]
    return np.pad(images, [(0, 0), (0, 0), *sides])


def _mean_and_sd(images: np.ndarray, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population sd of every channel in [0, 1], exact from counts of the 256 values."""
    means, sds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), 1024):
            counts += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
        pixels, total, squares = (
            sum(int(count) * value**power for value, count in enumerate(counts)) for power in range(3)
        )
        spread = pixels * squares - total**2
        if not spread:
            raise ValueError(
                f"channel {channel} of the training images of {name!r} is {images[0, channel, 0, 0]} in "
                "every pixel; expected different values: there is no sd to normalise by"
            )
        means.append(total / (255 * pixels))
        sds.append(math.sqrt(spread) / (255 * pixels))
    return tuple(means), tuple(sds)


def _permuted(images: np.ndarray, seed: int | None) -> np.ndarray:
    """Return images whose pixels are permuted, all in the same way; None leaves them in place."""
    if seed is None:
        return images
    order = np.random.default_rng(seed).permutation(images.shape[2] * images.shape[3])
    return images.reshape(*images.shape[:2], -1)[:, :, order].reshape(images.shape)


def _some_classes(raw: RawImages, spec: DataSpec, *, kept: bool) -> RawImages:
    """Return the images of the first classes, which a spec keeps, or those of all others."""
    first, classes = spec.first_classes, int(raw.train_label.max()) + 1
    if first is None:
        return raw
    if first >= classes:
        raise ValueError(
            f"DataSpec.first_classes is {first}; expected 2 to {classes - 1}, or None: {spec.name!r} has "
            f"{classes} classes"
        )
    train, test = (raw.train_label < first) == kept, (raw.test_label < first) == kept
    return RawImages(
        raw.train_images[train], raw.train_label[train], raw.test_images[test], raw.test_label[test]
    )


def load_images(spec: DataSpec, *, device: torch.device | str = "cpu") -> Splits:
    """Load, split and place a data set on a device.

    Parameters
    ----------
    spec
        Name of the data set, classes, number of validation and training images, size to pad to, and
        permutation of pixels.
    device
        Device that holds the uint8 images.

    Returns
    -------
    Splits
        The splits, normalised by the mean and sd of the training images.

    Raises
    ------
    ValueError
        If the data set is unknown, damaged or cannot be fetched (:func:`~lpc.datasets.load_raw`), if the
        classes, the validation set, the limit or the size do not suit it, or if a channel is constant.
    """
    raw = _some_classes(load_raw(spec.name), spec, kept=True)
    train, held = np.arange(len(raw.train_label)), None
    if spec.validation:
        train, held = _hold_out(raw.train_label, spec.validation, spec.split_seed, "DataSpec.validation")
    if spec.train_limit is not None and spec.train_limit < len(train):
        _, chosen = _hold_out(
            raw.train_label[train], spec.train_limit, spec.split_seed, "DataSpec.train_limit"
        )
        train = train[chosen]
    whole = len(train) == len(raw.train_label)
    images = raw.train_images if whole else raw.train_images[train]
    images = _padded(images, spec.size, spec.name)
    mean, sd = _mean_and_sd(images, spec.name)
    place = partial(
        _placed, spec=spec, device=device, mean=mean, sd=sd, classes=int(raw.train_label.max()) + 1
    )
    return Splits(
        train=place(images, raw.train_label[train]),
        validation=None if held is None else place(raw.train_images[held], raw.train_label[held]),
        test=place(raw.test_images, raw.test_label),
    )


def _placed(
    images: np.ndarray,
    label: np.ndarray,
    *,
    spec: DataSpec,
    device: torch.device | str,
    classes: int,
    mean: tuple[float, ...],
    sd: tuple[float, ...],
) -> ImageSet:
    """Return images as a spec wants them, on a device."""
    images = _permuted(_padded(images, spec.size, spec.name), spec.permutation_seed)
    return ImageSet(
        torch.from_numpy(np.ascontiguousarray(images)).to(device),
        torch.from_numpy(label.astype(np.int64)).to(device),
        classes,
        mean,
        sd,
    )


def left_out(spec: DataSpec, like: ImageSet) -> ImageSet:
    """Return all images, from train and test set, of the classes that ``first_classes`` leaves out.

    Parameters
    ----------
    spec
        Spec of the data; ``first_classes`` must not be None.
    like
        The train set of :func:`load_images`: its device, and its mean and sd, by which these are normalised.

    Returns
    -------
    ImageSet
        Images of the classes that were left out, with labels from 0: ``first_classes`` is subtracted.

    Raises
    ------
    ValueError
        If the spec leaves out no class, or the data set is damaged or cannot be fetched.
    """
    if spec.first_classes is None:
        raise ValueError(
            f"DataSpec.first_classes is None; expected a number: no class of {spec.name!r} is left out"
        )
    rest = _some_classes(load_raw(spec.name), spec, kept=False)
    label = np.concatenate([rest.train_label, rest.test_label]) - spec.first_classes
    return _placed(
        np.concatenate([rest.train_images, rest.test_images]),
        label,
        spec=spec,
        device=like.images.device,
        classes=int(label.max()) + 1,
        mean=like.mean,
        sd=like.sd,
    )


def batches(points: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Yield one epoch of shuffled index batches; the last may be smaller.

    Parameters
    ----------
    points
        Number of points in the epoch.
    size
        Number of points per batch.
    generator
        Generator of the order, which is drawn on its device.
    """
    yield from torch.randperm(points, generator=generator, device=generator.device).split(size)
