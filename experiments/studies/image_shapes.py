"""Shapes of the data sets, and random images in these shapes: speed does not depend on what images show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from lpc.data import ImageSet
from lpc.errors import unknown_name
from lpc.specs import DataSpec


class Shape(NamedTuple):
    """A data set's channels, pixels per side, classes, and images in its official train and test sets."""

    channels: int
    size: int
    classes: int
    train: int
    test: int


SHAPES: Mapping[str, Shape] = {
    "digits": Shape(1, 8, 10, 1_437, 360),
    "mnist": Shape(1, 28, 10, 60_000, 10_000),
    "mnist_subset": Shape(1, 28, 10, 4_000, 1_000),
    "fashion_mnist": Shape(1, 28, 10, 60_000, 10_000),
    "svhn": Shape(3, 32, 10, 73_257, 26_032),
    "cifar10": Shape(3, 32, 10, 50_000, 10_000),
    "cifar100": Shape(3, 32, 100, 50_000, 10_000),
}


def shape_of_data(data: DataSpec) -> Shape:
    """Return the shape of a spec's data: padded to its size, with the number of images that it keeps.

    If the spec keeps only some classes, all classes are assumed to have equally many images.
    """
    if data.name not in SHAPES:
        raise unknown_name("data set", data.name, SHAPES)
    shape = SHAPES[data.name]
    classes = shape.classes if data.first_classes is None else min(shape.classes, data.first_classes)
    kept = shape.train * classes // shape.classes - data.validation
    return shape._replace(
        size=data.size or shape.size,
        classes=classes,
        test=shape.test * classes // shape.classes,
        train=kept if data.train_limit is None else min(kept, data.train_limit),
    )


def random_images(data: DataSpec, total: int, *, device: torch.device | str = "cpu") -> ImageSet:
    """Return images of random pixels and labels in a data set's shape, the same in every call.

    Parameters
    ----------
    data
        Spec of the data set that gives the shape.
    total
        Number of images.
    device
        Device for the images.
    """
    shape = shape_of_data(data)
    generator = torch.Generator().manual_seed(0)
    size = (total, shape.channels, shape.size, shape.size)
    pixels = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    label = torch.randint(shape.classes, (total,), generator=generator)
    mean, sd = (0.5,) * shape.channels, (0.3,) * shape.channels
    return ImageSet(pixels.to(device), label.to(device), shape.classes, mean, sd)
