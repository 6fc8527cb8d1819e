"""The probe ``images``: measurements of single test images, from which the book's numbers are averaged."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from experiments.probes.attacks import pixel_logits
from lpc.arrays import tensor_of
from lpc.data import ImageSet, Splits
from lpc.evaluation import reliability, robustness
from lpc.evaluation.attacks import in_float64
from lpc.evaluation.corruptions import STRENGTHS, corrupted
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs.measurements import SHRINKAGE, Measured, attacked_images
from lpc.store.probes import Probe


def probe(model: Classifier, splits: Splits) -> Probe:
    """Measure each test image as the run's metrics, and the probe ``corruptions``, measure all of them.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Data of the run: train images for the class Gaussians, test images for everything else.

    Returns
    -------
    Probe
        Values: ``total``, the number of test images. Table: one row per test image, in order. ``right``:
        whether the network's decision is correct. ``mahalanobis_shrunk``, ``odin``: the two confidences.
        ``within``, ``between``: squared distance of the latent from its class's mean, and of that mean from
        the overall mean. ``corrupted``: the share of corruptions, over kinds and strengths, under which the
        decision is correct. ``deepfool``: relative norm of DeepFool's perturbation; missing unless the image
        is one on which every run is attacked. A column that could not be computed is left out, and
        ``missing`` says why.
    """
    train, test = collect(model, splits.train), collect(model, splits.test)
    fitted = (train.latent, train.label, train.predicted, test.latent, test.predicted)
    columns = {
        "right": lambda: test.predicted == test.label,
        "mahalanobis_shrunk": lambda: reliability.mahalanobis_confidence(*fitted, shrinkage=SHRINKAGE),
        "odin": lambda: reliability.odin_confidence(test.logits),
        "within": lambda: _spread(test)[0],
        "between": lambda: _spread(test)[1],
        "corrupted": lambda: _corrupted(model, splits.test),
        "deepfool": lambda: _deepfool(model, splits.test),
    }
    measured, table = Measured({"total": len(splits.test)}), {}
    for name, compute in columns.items():
        try:
            table[name] = tensor_of(compute()).cpu().numpy()
        except ValueError as error:
            measured.missing[name] = str(error)
    return Probe(measured.as_dict(), pd.DataFrame(table))


def _spread(test: Latents) -> tuple[Float64[Tensor, " images"], Float64[Tensor, " images"]]:
    """Return each image's contributions to the two traces of the trace ratio, which are their means."""
    latent = test.latent.double()
    latent = latent - latent.mean(dim=0)
    means = torch.zeros_like(latent)
    for label in test.label.unique():
        own = test.label == label
        means[own] = latent[own].mean(dim=0)
    return (latent - means).square().sum(dim=1), means.square().sum(dim=1)


def _corrupted(model: Classifier, images: ImageSet) -> Float64[Tensor, " images"]:
    """Return the share of all corruptions under which each image is classified correctly."""
    pixels, logits = images.pixels(), pixel_logits(model, images)
    right = torch.zeros(len(images), dtype=torch.float64, device=pixels.device)
    kinds = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]
    with torch.no_grad():
        for place, (kind, strength) in enumerate(kinds):
            changed = tensor_of(corrupted(pixels, kind, strength, seed=place))
            decided = torch.cat([logits(some).argmax(dim=1) for some in changed.split(1000)])
            right += decided == images.label
    return right / len(kinds)


def _deepfool(model: Classifier, images: ImageSet) -> Float64[Tensor, " images"]:
    """Return DeepFool's relative norm for the images on which every run is attacked, NaN for all others."""
    chosen = attacked_images(images)
    inputs = images.normalised(chosen).double()
    result = robustness.deepfool(in_float64(model), inputs)
    found = torch.full((len(images),), torch.nan, dtype=torch.float64, device=inputs.device)
    found[chosen] = tensor_of(robustness.relative_perturbation(result.perturbation, inputs))
    return found
