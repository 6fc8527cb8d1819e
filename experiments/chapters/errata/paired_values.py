"""A number by two conventions, and a run with everything from which such numbers are computed."""

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
"""How the names of those quantities begin whose two values are subtracted; all others are divided."""

Number = Callable[[], float]


class Comparison(NamedTuple):
    """A number by two conventions.

    Attributes
    ----------
    line
        Line of ``errata.toml``.
    quantity, switch
        The measured quantity, and the convention that is switched, or :data:`ALL`.
    here, switched
        Functions that compute the number by our convention and by the other; if there is none, they raise a
        ValueError that says why.
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
        Latents of the training images, flipped, cropped and with noise as in the run's batches.
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
    """Return latents and logits of images, in order, after augmentation drawn from ``seed``."""
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
    """Return whether the two values of a quantity are subtracted, not divided."""
    return quantity.startswith(DIFFERENCES)


def evaluate(comparison: Comparison) -> dict[str, object]:
    """Return a comparison's two values, their difference or ratio, and why one is missing."""
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
