"""Checks that the plain loop and the library train alike, by their losses in runs without random draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from experiments.benchmarks.plain_training import PlainTraining
from lpc.classifiers import build_classifier
from lpc.computing.precision import exact_float32
from lpc.data import ImageSet
from lpc.specs import RunSpec
from lpc.training import trainer
from lpc.training.draws import Draws
from lpc.training.recording import WARM_UP
from lpc.training.solo import Solo


class SameOrder:
    """The order, epoch by epoch, in which the library takes the images of a run that draws nothing else.

    Parameters
    ----------
    spec
        Spec of the run.
    images
        Train set.
    """

    def __init__(self, spec: RunSpec, images: ImageSet) -> None:
        model = build_classifier(
            spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
        )
        self.draws = Draws(spec, images, model=model)

    def __len__(self) -> int:
        return len(self.draws.images)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draws.order().tolist())


def without_chance(spec: RunSpec) -> RunSpec:
    """Return a run in float32 without augmentation and dropout: it draws only its weights and its order."""
    return replace(
        spec,
        data=replace(spec.data, flip=False, crop_padding=0, noise=0.0),
        model=replace(spec.model, dropout=0.0),
        train=replace(spec.train, precision="float32"),
    )


def batches_to_compare(device: torch.device) -> int:
    """Return how many batches an epoch needs so that all ways to take a step on a device are compared.

    On a GPU, some warm up, one is recorded and taken, and two more are taken by the recorded step.
    """
    return WARM_UP + 3 if device.type == "cuda" else 2


def loss_difference(spec: RunSpec, images: ImageSet, *, epochs: int = 1) -> float:
    """Return the largest relative difference between the mean losses of the plain loop's epochs and ours.

    Both start with the same weights, take images in the same order, without augmentation and dropout, and
    compute in float32 without rounding it further.

    Parameters
    ----------
    spec
        Spec of the run.
    images
        Train set, on the device to train on.
    epochs
        Number of epochs to compare.

    Raises
    ------
    ValueError
        If there are too few batches for a recorded step to take one (:func:`batches_to_compare`).
    """
    certain = without_chance(spec)
    plain = PlainTraining(certain, images, device=images.images.device, order=SameOrder(certain, images))
    ours = trainer([certain], images, compiled=False)
    found = []
    for _ in range(epochs):
        with exact_float32():
            theirs = plain.train_epoch()
        loss = ours.train_epoch()
        found.append(abs(float(loss.cross_entropy + loss.penalty) / theirs - 1))
    if isinstance(ours, Solo) and ours.recording is not None and ours.recording.recorded is None:
        whole, needed = len(images) // spec.train.batch_size, batches_to_compare(images.images.device)
        raise ValueError(
            f"{len(images)} images are {whole} whole batches, which the warm-up uses up: the recorded step "
            f"is not compared; expected {needed} or more"
        )
    return max(found)
