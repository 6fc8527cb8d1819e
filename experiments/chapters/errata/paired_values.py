"""A number in two conventions, and a run with all that such numbers are taken of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch

from experiments.studies.study import Study
from lpc.data import Augment, ImageSet, Splits
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs import load_model

ALL = "all of the release's"
"""The switch that changes every convention of a quantity."""
DIFFERENCES = ("entropy", "ℓ̄", "AUROC", "terminal epoch")
"""Beginnings of the quantities whose two values are subtracted; all others are divided."""

Number = Callable[[], float]


class Comparison(NamedTuple):
    """A number in two conventions.

    Attributes
    ----------
    line
        Line of ``errata.toml``.
    quantity, switch
        The measured quantity, and what is changed: one convention, or :data:`ALL`.
    here, switched
        Functions that compute the number; a ValueError says why there is none.
    """

    line: int
    quantity: str
    switch: str
    here: Number
    switched: Number


class Run(NamedTuple):
    """A selected run: its classifier in evaluation mode, its images, and their latents.

    Attributes
    ----------
    augmented
        Latents of the training images, flipped, cropped and with noise as in the run's own batches.
    history
        Table with one row per epoch, with ``epoch`` and, if it was measured, ``accuracy``.
    record_every
        Number of epochs between recorded metrics.
    """

    model: Classifier
    splits: Splits
    train: Latents
    augmented: Latents
    test: Latents
    history: pd.DataFrame
    record_every: int


def augmented(model: Classifier, images: ImageSet, augment: Augment, *, seed: int) -> Latents:
    """Return latents and logits of images as augmentation drawn from ``seed`` shows them, in their order."""
    generator = torch.Generator(images.images.device).manual_seed(seed)
    index = torch.arange(len(images), device=images.images.device)
    return collect(model, images, shown=images.augmented(index, augment, generator))


def load(study: Study, architecture: str, seed: int) -> Run:
    """Return a selected run with everything that the comparisons need."""
    spec, splits = study.spec(architecture, seed), study.images
    model = load_model(spec, study.store, splits.train)
    history = study.history
    augment = Augment(spec.data.flip, spec.data.crop_padding, spec.data.noise)
    return Run(
        model,
        splits,
        collect(model, splits.train),
        augmented(model, splits.train, augment, seed=0),
        collect(model, splits.test),
        history[(history["architecture"] == architecture) & (history["seed"] == seed)],
        spec.train.record_every,
    )


def difference(quantity: str) -> bool:
    """Whether the two values of a quantity are subtracted, not divided."""
    return quantity.startswith(DIFFERENCES)


def evaluate(comparison: Comparison) -> dict[str, object]:
    """Return a comparison's two values, what lies between them, and why one is missing."""
    values, reasons = [], []
    for number in (comparison.here, comparison.switched):
        try:
            values.append(number())
        except ValueError as error:
            values.append(math.nan)
            reasons.append(str(error))
    here, switched = values
    quotient = switched / here if here else math.nan
    return {
        **{name: getattr(comparison, name) for name in ("line", "quantity", "switch")},
        "here": here,
        "switched": switched,
        "effect": switched - here if difference(comparison.quantity) else quotient,
        "missing": "; ".join(dict.fromkeys(reasons)),
    }
