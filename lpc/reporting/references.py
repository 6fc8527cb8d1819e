"""References for the values of a report: tight random classes, and the book's networks."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor


def tight_random_classes(width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return four points per class, tight about independent Gaussian means, and their labels.

    Parameters
    ----------
    width, classes
        Width of the latents, and number of classes.
    seed
        Seed of the means.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    label = torch.arange(classes).repeat(4)
    noise = torch.randn(4 * classes, width, generator=generator, dtype=torch.float64)
    return mean[label] + 1e-3 * noise, label


@cache
def book() -> dict[str, dict[str, float]]:
    """Return values of the book's networks on Fashion-MNIST, by name of the value, then by architecture.

    They are means over the recorded seeds, for the train set's latents or, as ``test ...``, the test set's.
    """
    return json.loads(files("lpc.reporting").joinpath("book.json").read_text())


def of_book(key: str) -> dict[str, float]:
    """Return the book's values of a key, by their labels in a report; empty: the book has none."""
    return {f"book: {name}": value for name, value in book().get(key, {}).items()}
