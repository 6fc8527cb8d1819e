"""The probe ``outside``: how good a network's confidence is, on its own images and on other data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from lpc.arrays import tensor_of
from lpc.data import ImageSet, Splits
from lpc.datasets import load_raw
from lpc.evaluation import calibration, detection, misclassification
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs.measurements import SHRINKAGE, Measured
from lpc.store.probes import Probe

STRANGERS = ("digits", "mnist_subset", "fashion_mnist")
"""Data sets whose test images a network is shown, including its own, where every score must be at chance."""
IMAGES = 1_000
"""Largest number of test images from each, from the first."""

Score = Callable[[Latents], Tensor]


def probe(model: Classifier, splits: Splits) -> Probe:
    """Measure calibration with and without temperature scaling, and how well scores detect other data sets.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images, which have one channel.
    splits
        Data of the run: train images for the class Gaussians, validation images for the temperature, test
        images.

    Returns
    -------
    Probe
        Values: ``temperature``, fitted on validation images; ``ece`` and ``ece_scaled``, the calibration
        error on test images without and with that temperature. ``errors``: AUROC of the largest probability
        for correct against wrong decisions. ``<data>_<score>``: AUROC of a score for the network's own test
        images against those of another data set; the scores are ``softmax`` (the largest probability),
        ``energy``, ``mahalanobis`` (distance of the latent to the nearest class, with one covariance, shrunk
        as in the run's own metrics) and ``norm`` (of the latent).
    """
    train, test = collect(model, splits.train), collect(model, splits.test)
    temperature = cache(partial(_temperature, model, splits))
    measured = Measured()
    measured.add(["temperature"], temperature)
    measured.add(["ece"], lambda: _calibration_error(test, 1.0))
    measured.add(["ece_scaled"], lambda: _calibration_error(test, temperature()))
    right = test.predicted == test.label
    measured.add(["errors"], lambda: misclassification.misclassification_auroc(_softmax(test), right))
    scores = {name: (score, cache(partial(score, test))) for name, score in _scores(train).items()}
    for name in STRANGERS:
        _add_stranger(measured, name, model, splits.test, scores)
    return Probe(measured.as_dict())


def _softmax(found: Latents) -> Tensor:
    return found.logits.double().softmax(dim=1).amax(dim=1)


def _scores(train: Latents) -> Mapping[str, Score]:
    return {
        "softmax": _softmax,
        "energy": lambda found: detection.energy_confidence(found.logits),
        "mahalanobis": lambda found: tensor_of(
            detection.mahalanobis_detection(
                train.latent, train.label, found.latent, shrinkage=SHRINKAGE, drop_dead=True
            ).confidence
        ),
        "norm": lambda found: found.latent.double().norm(dim=1),
    }


def _temperature(model: Classifier, splits: Splits) -> float:
    if splits.validation is None:
        raise ValueError("there are no validation images to fit a temperature on")
    held = collect(model, splits.validation)
    return calibration.fit_temperature(held.logits, held.label)


def _calibration_error(test: Latents, temperature: float) -> float:
    probability = (test.logits.double() / temperature).softmax(dim=1)
    return calibration.expected_calibration_error(probability, test.label)


def _add_stranger(
    measured: Measured,
    name: str,
    model: Classifier,
    like: ImageSet,
    scores: Mapping[str, tuple[Score, Callable[[], Tensor]]],
) -> None:
    """Add one value per score; if the data set is unavailable, all are missing, and the reason is noted.

    ``scores`` has each score with its values for the network's own test images.
    """
    try:
        pixels = strange_pixels(name, like)
    except (ValueError, ImportError) as error:
        columns = [f"{name}_{score}" for score in scores]
        measured.values.update(dict.fromkeys(columns))
        measured.missing.update(dict.fromkeys(columns, str(error)))
        return
    with torch.no_grad():
        latent, logits = model(like.normalise(pixels))[:2]
    found = Latents(latent, logits, like.label.new_zeros(len(pixels)))
    for called, (score, own) in scores.items():
        measured.add(
            [f"{name}_{called}"],
            lambda score=score, own=own: detection.detection(own(), score(found)).auroc,
        )


def strange_pixels(name: str, like: ImageSet) -> Float[Tensor, "images 1 row column"]:
    """Return test images of a data set, in [0, 1], in the size and on the device of given images.

    Parameters
    ----------
    name
        Name of a data set with one channel, a key of ``lpc.datasets.LOADERS``.
    like
        Images of one channel, for size and device.

    Raises
    ------
    ValueError
        If images have several channels, or ``lpc.datasets.load_raw`` raises one.
    ImportError
        If the data set's package is not installed.

    Notes
    -----
    Larger images are reduced by averaging over areas, smaller ones enlarged by bilinear interpolation.
    """
    raw = load_raw(name).test_images[:IMAGES]
    if raw.shape[1] != 1 or like.channels != 1:
        raise ValueError(
            f"{name} has {raw.shape[1]} channels and the network {like.channels}; expected 1 each"
        )
    pixels = torch.from_numpy(raw).to(like.images.device).float() / 255
    if pixels.shape[-1] == like.size:
        return pixels
    if pixels.shape[-1] > like.size:
        return interpolate(pixels, size=(like.size, like.size), mode="area")
    return interpolate(pixels, size=(like.size, like.size), mode="bilinear", align_corners=False)
