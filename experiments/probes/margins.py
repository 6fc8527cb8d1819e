"""The probe ``margins``: distance margins, entropy per node and slopes of one trained embedding."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpc.data import ImageSet, Splits
from lpc.evaluation.class_margins import distance_margin, summary
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.lipschitz import margin_gradient
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs.measurements import Measured, neighbours
from lpc.store.probes import Probe

STEEP_IMAGES = 1_000
"""Largest number of test images for the slope of the logit margin, the same for every run."""
RELEASED_SHARE = 5
"""The 2025 release estimates the entropy from 10,000 of 50,000 points: one in this number."""


def probe(model: Classifier, splits: Splits) -> Probe:
    """Measure the margins, entropies and slopes of an embedding.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Data of the run: train images for the class means and the entropy, test images for everything else.

    Returns
    -------
    Probe
        Values: a summary of the distance margins (``_mean``, ``_median``, ``_share_below_one``, ``_on_mean``)
        for ``train`` and ``test`` latents, and for both scaled to length one (``directions_train``,
        ``directions_test``); the values of :func:`entropies` and :func:`slopes`. Table: one row per test
        image, with its ``label``, ``margin`` and ``directions_margin``.
    """
    train, test = (collect(model, images) for images in (splits.train, splits.test))
    measured = Measured()
    columns = {"label": test.label.cpu().numpy()}
    for prefix, change in (("", Tensor.double), ("directions_", directions)):
        for part, points in (("train", train), ("test", test)):
            names = [f"{prefix}{part}_{name}" for name in ("mean", "median", "share_below_one", "on_mean")]
            try:
                margin = distance_margin(
                    change(train.latent), train.label, change(points.latent), points.label
                )
            except ValueError as error:
                measured.values.update(dict.fromkeys(names))
                measured.missing.update(dict.fromkeys(names, str(error)))
                continue
            measured.add(names, lambda margin=margin: tuple(summary(margin))[1:])
            if part == "test":
                columns[f"{prefix}margin"] = margin.cpu().numpy()
    names = ["entropy_node", "entropy_unit_rms_node", "entropy_released_node", "entropy_part_node"]
    measured.add(names, lambda: tuple(entropies(train, splits.train.classes)))
    names = ["gradient_mean", "gradient_median", "gradient_max", "distance_median", "zero_gradients"]
    measured.add(names, lambda: tuple(slopes(model, splits.test)))
    return Probe(measured.as_dict(), pd.DataFrame(columns))


def directions(latent: Float[Tensor, "points width"]) -> Float[Tensor, "points width"]:
    """Return the latents in float64, each divided by its length; ValueError if that is zero."""
    value = latent.double()
    largest = value.abs().amax(dim=1, keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(f"latent {int((largest[:, 0] == 0).nonzero()[0])} is zero: it has no direction")
    value = value / largest
    return value / torch.linalg.vector_norm(value, dim=1, keepdim=True)


class Entropies(NamedTuple):
    r"""k-NN entropy of an embedding divided by its width, in nats per node.

    Attributes
    ----------
    node
        Entropy of all points, unscaled.
    unit_rms
        ``node`` minus :math:`\log` of the rms of all entries: the entropy of the latents at unit rms.
    released
        Entropy by the 2025 release's convention: from one point in :data:`RELEASED_SHARE`, but with the
        digamma of the number N of all points.
    part
        Entropy of the same few points with the digamma of their own number n, as ``released`` should have it.
        It is lower by :math:`(\psi(N) - \psi(n))/P`, with P the width.
    """

    node: float
    unit_rms: float
    released: float
    part: float


def entropies(latents: Latents, classes: int) -> Entropies:
    """Return the entropy of latents in nats per node, in four ways.

    k is 2 % of the class size of the points that are used, at least 1 (``lpc.runs.measurements.neighbours``):
    20 for 10,000 points in ten classes, as in the 2025 release. We do not follow its squared distances at
    widths over 512. Entropies of different widths must not be ranked, not even per node.

    Parameters
    ----------
    latents
        Latents of the train set.
    classes
        Number of classes.

    Raises
    ------
    ValueError
        If ``lpc.evaluation.information.knn_entropy`` raises one, or all latents are zero.
    """
    z = latents.latent.double()
    points, width = z.shape
    rms = float((z / z.abs().max()).square().mean().sqrt() * z.abs().max())
    whole = knn_entropy(z, k=neighbours(points, classes)) / width
    few = max(2, points // RELEASED_SHARE)
    chosen = torch.randperm(points, generator=torch.Generator().manual_seed(0))[:few].to(z.device)
    part = knn_entropy(z[chosen], k=neighbours(few, classes)) / width
    return Entropies(whole, whole - math.log(rms), part + digamma_gap(points, few) / width, part)


def digamma_gap(points: int, few: int) -> float:
    r"""Return :math:`\psi(N) - \psi(n)` in nats: how much N in place of n raises a k-NN entropy."""
    psi = torch.special.digamma(torch.tensor([points, few], dtype=torch.float64))
    return float(psi[0] - psi[1])


class Slopes(NamedTuple):
    """Steepness of the logit margin at some test images.

    Attributes
    ----------
    mean, median, maximum
        Statistics of the norm of the margin's input gradient, in logits per normalised unit of input; the
        maximum estimates the margin's Lipschitz constant from below.
    distance
        Median of margin / gradient norm, divided by the image's norm; it does not depend on the scale of the
        logits. It is not a bound: the boundary would be at this distance if the margin were affine.
    zero
        Number of images at which the gradient is exactly zero, so that their distance is infinite.
    """

    mean: float
    median: float
    maximum: float
    distance: float
    zero: int


def slopes(model: Classifier, images: ImageSet) -> Slopes:
    """Return the steepness of a network's logit margin at :data:`STEEP_IMAGES` images, in float64.

    Parameters
    ----------
    model
        Classifier in evaluation mode; it is copied, not changed.
    images
        Test images; those measured are drawn with seed 0, the same for every network.
    """
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:STEEP_IMAGES]
    inputs = images.normalised(drawn.to(images.images.device)).double()
    network = copy.deepcopy(model).double()
    found = margin_gradient(lambda batch: network(batch).logits, inputs)
    relative = found.distance / torch.linalg.vector_norm(inputs.flatten(start_dim=1), dim=1)
    return Slopes(
        mean=float(found.norm.mean()),
        median=float(np.median(found.norm.cpu().numpy())),
        maximum=float(found.norm.max()),
        distance=float(np.median(relative.cpu().numpy())),
        zero=int((found.norm == 0).sum()),
    )
