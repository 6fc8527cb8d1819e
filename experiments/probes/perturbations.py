"""DeepFool's perturbations of a study's test images, and shorter ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.probes.image_functions import Logits, norms
from experiments.studies.study import Study
from lpc.data import ImageSet
from lpc.evaluation.ceilings import boundary_ceiling
from lpc.evaluation.lipschitz import margin_gradient
from lpc.evaluation.robustness import deepfool
from lpc.heads import Classifier
from lpc.runs import load_model
from lpc.runs.measurements import attacked_images


class Attacked(NamedTuple):
    """A network under attack.

    Attributes
    ----------
    logits
        Network in float64, as a function from images to logits.
    image
        Normalised images, shape (images, channels, rows, columns).
    perturbation
        DeepFool's perturbations, in the same shape.
    """

    logits: Logits
    image: Tensor
    perturbation: Tensor

    @property
    def length(self) -> Float64[Tensor, " images"]:
        """Norm of each perturbation, divided by its image's norm."""
        return norms(self.perturbation) / norms(self.image)


class Sample(NamedTuple):
    """Normalised images, in float64, and their labels."""

    image: Tensor
    label: Tensor


def sample(images: ImageSet) -> Sample:
    """Return the test images on which every run of the book is attacked."""
    chosen = attacked_images(images)
    return Sample(images.normalised(chosen).double(), images.label[chosen])


def attacked(study: Study, architecture: str, seed: int) -> Attacked:
    """Attack a selected run again, as for its test metrics (``measurements.table2_metrics``)."""
    model = load_model(study.spec(architecture, seed), study.store, study.images_at_hand.test).double()
    logits, image = through(model), sample(study.images.test).image
    return Attacked(logits, image, deepfool(logits, image).perturbation)


def through(model: Classifier) -> Logits:
    """Return a network's logits as a function of images, which may be on another device than the network."""

    def logits(batch: Tensor) -> Tensor:
        return model(batch.to(next(model.parameters()).device)).logits.to(batch.device)

    return logits


def nearest_stranger(
    image: Float[Tensor, "images channel row column"], label: Tensor, train: ImageSet
) -> Float[Tensor, "images channel row column"]:
    """Return, for every image, the difference to the nearest training image of another class."""
    others = train.normalised().to(image)
    found = boundary_ceiling(image.flatten(1), label, others.flatten(1), train.label)
    return others[found.stranger] - image


def shortest(
    network: Attacked, directions: Iterable[Tensor], *, steps: int = 25, halvings: int = 7
) -> Float64[Tensor, " images"]:
    """Return the length of the shortest perturbation found to change each decision, over the image's norm.

    This is an upper bound on the smallest perturbation, and at most DeepFool's length. Along every direction,
    the decision is computed at ``steps`` equal fractions of DeepFool's length; the first change is then
    bisected.

    Parameters
    ----------
    network
        Network with DeepFool's perturbations.
    directions
        Directions in which to search, of any length; along a zero one nothing is found.
    steps, halvings
        Number of fractions to try, and of bisections after them.
    """
    limit = norms(network.perturbation)
    best = limit.clone()
    fraction = torch.arange(1, steps + 1, dtype=limit.dtype, device=limit.device) / steps
    with torch.no_grad():
        decision = network.logits(network.image).argmax(dim=1)
        for direction in directions:
            size = norms(direction)
            unit = direction / torch.where(size > 0, size, 1.0)[:, None, None, None]
            scale = limit[:, None] * fraction
            moved = network.image[:, None] + scale[..., None, None, None] * unit[:, None]
            after = network.logits(moved.flatten(0, 1)).argmax(dim=1).reshape(scale.shape)
            high = torch.where(after != decision[:, None], scale, torch.inf).amin(dim=1)
            low = high - limit / steps
            for _ in range(halvings):
                middle = torch.where(torch.isfinite(high), (low + high) / 2, 0.0)
                there = network.logits(network.image + middle[:, None, None, None] * unit).argmax(dim=1)
                high = torch.where(there != decision, middle, high)
                low = torch.where(there != decision, low, middle)
            best = torch.minimum(best, high)
    return best / norms(network.image)


def margin_along(network: Attacked, fraction: Float64[Tensor, " steps"]) -> Float64[Tensor, "images steps"]:
    """Return the initial decision's logit margin along DeepFool's perturbation, over its initial value.

    The margin is the decision's logit minus the largest other one. The result is 1 at fraction 0, and
    negative once the network is fooled.
    """
    with torch.no_grad():
        decision = network.logits(network.image).argmax(dim=1)
        margins = [
            margin(network.logits(network.image + f * network.perturbation), decision) for f in fraction
        ]
        return torch.stack(margins, dim=1) / margin(network.logits(network.image), decision)[:, None]


def margin(logits: Float[Tensor, "images classes"], decision: Tensor) -> Float[Tensor, " images"]:
    """Return the decision's logit minus the largest other logit."""
    own = logits.gather(1, decision[:, None])[:, 0]
    return own - logits.scatter(1, decision[:, None], -torch.inf).amax(dim=1)


def bounds(study: Study, architectures: Sequence[str]) -> pd.DataFrame:
    """Return four estimates of the distance to a change of each network's decisions.

    Parameters
    ----------
    study
        Study with the runs of a profile; every seed is used.
    architectures
        Architectures whose DeepFool perturbations are also tried on each other.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, and means over the sampled test images of lengths divided by the
        image's norm: ``first_order`` (margin over the norm of its gradient), ``deepfool``, ``own_line`` (the
        shortest along DeepFool's own direction), and ``shortest`` (also along the directions of the other
        networks with this seed, and towards the nearest training image of another class).
    """
    stranger = nearest_stranger(*sample(study.images.test), study.images.train)
    rows = []
    for seed in study.selected["seed"].drop_duplicates().sort_values():
        networks = {name: attacked(study, name, int(seed)) for name in architectures}
        for name, network in networks.items():
            others = [other.perturbation for key, other in networks.items() if key != name]
            first_order = margin_gradient(network.logits, network.image).distance
            own = shortest(network, [network.perturbation])
            aside = shortest(network, [*others, stranger])
            rows.append(
                {
                    "architecture": name,
                    "seed": int(seed),
                    "first_order": float((first_order / norms(network.image)).mean()),
                    "deepfool": float(network.length.mean()),
                    "own_line": float(own.mean()),
                    "shortest": float(torch.minimum(own, aside).mean()),
                }
            )
    return pd.DataFrame(rows)
