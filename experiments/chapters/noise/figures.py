"""Kirsch et al.'s Figure 4: the error against the latent's entropy, and what noise and shrinking do to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int
from matplotlib.axes import Axes
from torch import Tensor

from experiments.chapters.noise.float_formats import Readout
from experiments.studies.study import Study
from lpc.backbones import DropoutCNN
from lpc.computing.sampling import ZERO_ENTROPY_SD, dropout_masks
from lpc.data import ImageSet
from lpc.evaluation.quantities import gaussian_quantities
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.latents import collect
from lpc.runs.information_measurements import NOISE_SAMPLES
from lpc.schedules import latent_sd

NOISE_FREE, NOISY = "#000000", "#0072B2"
"""Colours without noise (dashed lines) and with zero-entropy noise (solid lines)."""


def per_node(sd: float) -> float:
    """Return the entropy, in nats, of a Gaussian of the given sd, which bounds a node's entropy."""
    return 0.5 * math.log(2 * math.pi * math.e) + math.log(sd)


def with_errors(runs: Study, names: Sequence[str]) -> pd.DataFrame:
    """Return the history of runs with rescaled latents, with the quantities of Figure 4.

    Parameters
    ----------
    runs
        Runs of a profile.
    names
        Names of the runs.

    Returns
    -------
    DataFrame
        One row per run and recorded epoch. Columns ``test_error``, with the run's noise if it has any;
        ``sd``, the scheduled sd of every node before noise; in nats per node, ``bound`` (for the latent
        including noise), ``knn`` and ``exact`` (NaN without noise); and all columns of the history.
    """
    history = runs.history[runs.history["architecture"].isin(list(names))].copy()
    specs = [
        runs.spec(name, seed) for name, seed in zip(history["architecture"], history["seed"], strict=True)
    ]
    accuracy = history["test_accuracy"]
    if "noisy_test_accuracy" in history:
        accuracy = history["noisy_test_accuracy"].fillna(accuracy)
    history["test_error"] = 1 - accuracy
    epochs = zip(history["epoch"], specs, strict=True)
    history["sd"] = [latent_sd(int(epoch) - 1, spec.train) for epoch, spec in epochs]
    width = np.array([spec.model.latent_width for spec in specs], dtype=float)
    columns = {"bound": "entropy_bound", "knn": "knn_entropy", "exact": "encoding_entropy"}
    for short, column in columns.items():
        history[short] = history[column] / width if column in history else math.nan
    return history


def draw_trials(
    ax: Axes, history: pd.DataFrame, x: str, y: str, *, label: str, colour: str, line: str = "-"
) -> Axes:
    """Draw one thin line per trial over its epochs, and the median over trials at each epoch.

    Parameters
    ----------
    ax
        Axes to draw on.
    history
        History of the trials of one setting, with ``seed`` and ``epoch``.
    x, y
        Columns to draw.
    label, colour, line
        Look of the median line.
    """
    rows = history[[x, y, "seed", "epoch"]].dropna().sort_values(["seed", "epoch"])
    for _, trial in rows.groupby("seed"):
        ax.plot(trial[x], trial[y], line, color=colour, linewidth=0.7, alpha=0.4)
    median = rows.groupby("epoch")[[x, y]].median()
    ax.plot(median[x], median[y], line, color=colour, linewidth=1.8, label=label)
    return ax


def noise_at_test(readout: Readout, *, sds: Sequence[float], points: int = 1024) -> pd.DataFrame:
    """Return what noise does to a network trained without it: latents are rescaled, then noise is added.

    Returns
    -------
    DataFrame
        One row per sd. Columns ``sd``; ``test_error``, with predictions averaged over 12 draws as in
        training; ``one_draw``, with a single draw; and ``preserved_information``, I[X; Z] of the train set in
        nats, estimated at up to ``points`` points.
    """
    rows = []
    shape = (NOISE_SAMPLES, *readout.latent.shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sd in sds:
        logits = (sd * readout.latent + ZERO_ENTROPY_SD * noise) @ (readout.weight / sd).T + readout.bias
        mean = logits.softmax(dim=2).mean(dim=0)
        found = gaussian_quantities(
            sd * readout.train_latent,
            readout.train_label,
            generator=torch.Generator().manual_seed(0),
            points=min(points, len(readout.train_label)),
        )
        wrong = (one.argmax(dim=1) != readout.label for one in (mean, logits[0]))
        error, one_draw = (float(one.double().mean()) for one in wrong)
        row = {"sd": sd, "test_error": error, "one_draw": one_draw}
        rows.append({**row, "preserved_information": found.quantities.preserved_information})
    return pd.DataFrame(rows)


def adam_steps(
    classifier: Classifier, images: ImageSet, *, sds: Sequence[float], learning_rate: float
) -> pd.DataFrame:
    """Return what Adam's first step changes, in float32, if the same latents have different sds.

    Parameters
    ----------
    classifier
        Classifier whose latent is shifted and scaled; it is not changed.
    images
        Images; one batch of up to 1,024 is used, without dropout or noise.
    sds
        Standard deviations to which every node of the latent is scaled before the step; the decoder is
        adapted to match.
    learning_rate
        Learning rate of Adam.

    Raises
    ------
    ValueError
        If the classifier has no shift and scale.

    Returns
    -------
    DataFrame
        One row per sd. Columns ``*_gradient`` (rms) and ``*_change`` (relative rms change) for the weights of
        ``encoder`` (all layers before the decoder) and ``decoder``.
    """
    batch = slice(0, min(1024, len(images)))
    sd = collect(classifier, images).latent.double().std(dim=0)
    rows = []
    for wanted in sds:
        model = copy.deepcopy(classifier).eval()
        head = _rescaled_head(model)
        decoder = head.classifier
        with torch.no_grad():
            head.scale.copy_(head.scale * (wanted / sd))
            decoder.weight.copy_(decoder.weight * (sd / wanted))
        loss = torch.nn.functional.cross_entropy(model(images.normalised(batch)).logits, images.label[batch])
        loss.backward()
        parts = {
            "encoder": [p for name, p in model.named_parameters() if not name.startswith("head.classifier")],
            "decoder": [decoder.weight],
        }
        before = {name: _flat(p.detach() for p in part) for name, part in parts.items()}
        row = {"sd": wanted}
        for name, part in parts.items():
            row[f"{name}_gradient"] = _rms(_flat(p.grad for p in part if p.grad is not None))
        torch.optim.Adam(model.parameters(), lr=learning_rate).step()
        for name, part in parts.items():
            moved = _flat(p.detach() for p in part) - before[name]
            row[f"{name}_change"] = _rms(moved) / _rms(before[name])
        rows.append(row)
    return pd.DataFrame(rows)


def _rescaled_head(model: Classifier) -> BottleneckHead:
    if isinstance(model.head, CategoricalHead) or not model.head.rescaled:
        raise ValueError("the latent of the classifier is not rescaled; expected ModelSpec.rescaled")
    return model.head


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())


class Sampled(NamedTuple):
    """Latents under several samples of dropout: all images for the first sample, then all for the second.

    Attributes
    ----------
    latent
        Latents before noise is added.
    image, label
        Index of each latent's image, and its class.
    """

    latent: Float64[Tensor, "rows width"]
    image: Int[Tensor, " rows"]
    label: Int[Tensor, " rows"]


@torch.no_grad()
def dropout_latents(
    classifier: Classifier, images: ImageSet, *, samples: int, generator: torch.Generator, sd: float
) -> Sampled:
    """Return latents with dropout active in the encoder, scaled to a given sd at every node.

    Parameters
    ----------
    classifier
        Classifier with a backbone that has dropout.
    images
        Images; all are used.
    samples
        Number of samples of dropout per image.
    generator
        Generator of the masks.
    sd
        Standard deviation of every node, over images and samples.

    Raises
    ------
    ValueError
        If the backbone has no dropout.
    """
    backbone = classifier.backbone
    if not isinstance(backbone, DropoutCNN):
        raise ValueError(f"the backbone is a {type(backbone).__name__}; expected a DropoutCNN")
    mask = dropout_masks(samples * len(images), backbone.sites, generator)
    features = backbone(images.normalised(), mask=mask)
    latent = classifier.eval().head(features).latent.double()
    unit = (latent - latent.mean(dim=0)) / latent.std(dim=0)
    image = torch.arange(len(images)).repeat(samples)
    return Sampled(sd * unit, image, images.label.repeat(samples))
