"""Experiments with decoder uncertainty: shared categories, dropout samples, batches, first steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from experiments.studies.study import Study
from lpc.backbones import DropoutCNN
from lpc.classifiers import build_classifier
from lpc.computing.numerics import measurement
from lpc.computing.sampling import dropout_masks
from lpc.data import Splits
from lpc.evaluation.quantities import categorical_quantities
from lpc.heads import CategoricalHead, Classifier
from lpc.objectives import decoder_cross_entropy, optimal_decoder, prediction_cross_entropy
from lpc.specs import RunSpec

_ROWS = 8192  # largest number of rows with masks at a time


class Encoded(NamedTuple):
    """A finished run's train set: p(z | x) and the class of each row, and log p_Θ(y | z)."""

    weight: Float64[Tensor, "points categories"]
    label: Integer[Tensor, " points"]
    log_decoder: Float64[Tensor, "categories classes"]


def encoded(runs: Study, name: str, seed: int) -> Encoded:
    """Return the inputs of Section 5's quantities for a finished run, in double precision."""
    head = runs.classifier(name, seed).head
    if not isinstance(head, CategoricalHead):
        raise ValueError(f"run {name} has a {type(head).__name__}; expected a categorical latent")
    latents = runs.latents(name, seed)
    with torch.no_grad():
        return Encoded(latents.latent.double(), latents.label, head.log_decoder().double())


def shared_classes(
    weight: Float64[Tensor, "points categories"], label: Integer[Tensor, " points"]
) -> list[list[int]]:
    """Return the groups of two or more classes with the same most probable category by p(z | y)."""
    homes: dict[int, list[int]] = {}
    for value in label.unique().tolist():
        homes.setdefault(int(weight[label == value].mean(dim=0).argmax()), []).append(value)
    return sorted((group for group in homes.values() if len(group) > 1), key=len, reverse=True)


@measurement
@torch.no_grad()
def dropout_log_probability(
    model: Classifier,
    images: Float[Tensor, "points channel row column"],
    label: Integer[Tensor, " points"],
    *,
    samples: int,
    generator: torch.Generator,
) -> Float64[Tensor, "samples points"]:
    """Return log p_Θ(y | z) of the label at independent samples of the dropout within a network.

    Parameters
    ----------
    model
        Classifier with a dropout CNN as backbone, in evaluation mode, so that there is no other noise.
    images, label
        Normalised images, and their classes.
    samples
        Masks per image, a multiple of the number drawn at a time for that many points.
    generator
        Generator of the masks.
    """
    if not isinstance(model.backbone, DropoutCNN):
        raise ValueError(f"the backbone is a {type(model.backbone).__name__}; expected one with dropout")
    parts, left = [], samples
    while left:
        now = min(left, max(1, _ROWS // len(label)))
        mask = dropout_masks(now * len(label), model.backbone.sites, generator)
        log_probability = model(images, mask=mask).logits.double().log_softmax(dim=1)
        own = log_probability.gather(1, label.repeat(now)[:, None])
        parts.append(own.reshape(now, len(label)))
        left -= now
    return torch.cat(parts)


def sample_estimates(
    log_probability: Float64[Tensor, "samples points"], *, sizes: Sequence[int]
) -> pd.DataFrame:
    r"""Return an objective with several samples per point, both as mean of losses and as loss of the mean.

    Parameters
    ----------
    log_probability
        Logarithm of the label's probability at independent samples.
    sizes
        Numbers of samples per objective.

    Returns
    -------
    DataFrame
        One row per size: ``samples``; ``mean_of_losses``,
        :math:`-\frac1K\sum_k \ln p_\Theta(y|z_k)` (Inoue, 2019), and ``loss_of_mean``,
        :math:`-\ln\frac1K\sum_k p_\Theta(y|z_k)` (Noh et al., 2017), means over disjoint groups of K samples
        and over points; ``mean_of_losses_error`` and ``loss_of_mean_error``, their standard errors over
        groups, with fixed points.

    Raises
    ------
    ValueError
        If a size leaves fewer than two groups.
    """
    samples = log_probability.shape[0]
    rows = []
    for size in sizes:
        groups = samples // size if size > 0 else 0
        if groups < 2:
            raise ValueError(f"size {size} of {samples} samples; expected 1 or more, and at least two groups")
        grouped = log_probability[: groups * size].reshape(groups, size, -1)
        values = {
            "mean_of_losses": -grouped.mean(dim=(1, 2)),
            "loss_of_mean": (math.log(size) - grouped.logsumexp(dim=1)).mean(dim=1),
        }
        row = {"samples": float(size)}
        for name, value in values.items():
            row[name] = float(value.mean())
            row[f"{name}_error"] = float(value.std()) / math.sqrt(groups)
        rows.append(row)
    return pd.DataFrame(rows)


def batch_uncertainties(
    weight: Float64[Tensor, "points categories"],
    label: Integer[Tensor, " points"],
    *,
    size: int,
    batches: int,
    generator: torch.Generator,
) -> Float64[Tensor, " batches"]:
    """Return H[Y | Z] of random batches, each with its own p(y | z), in nats.

    Parameters
    ----------
    weight, label
        Distribution p(z | x) and class of every point of a set.
    size
        Points per batch, drawn without replacement.
    batches
        Number of batches.
    generator
        Generator of the draws.
    """
    if not 1 <= size <= len(label):
        raise ValueError(f"size is {size}; expected 1 to {len(label)}, the number of points")
    values = []
    for _ in range(batches):
        some = torch.randperm(len(label), generator=generator)[:size]
        values.append(categorical_quantities(weight[some], label[some]).decoder_uncertainty)
    return torch.tensor(values, dtype=torch.float64)


def first_steps(
    spec: RunSpec,
    splits: Splits,
    *,
    objective: str,
    decoder: str,
    steps: int,
    every: int,
    points: int = 2000,
) -> pd.DataFrame:
    """Train a categorical latent for some steps, with a learnt decoder or each batch's optimal one.

    Parameters
    ----------
    spec
        Spec of a run, for its model, seed, batch size and learning rate.
    splits
        Data of the run.
    objective
        Cross-entropy to minimise, ``"decoder"`` or ``"prediction"``.
    decoder
        Kind of decoder. ``"learned"``: the head's network. ``"optimal"``: p(y | z) of the batch, without a
        gradient through it; with the decoder's cross-entropy, this minimises H[Y | Z] directly.
    steps, every
        Number of steps of Adam, and number of steps between measurements.
    points
        Largest number of images to measure.

    Returns
    -------
    DataFrame
        One row per measurement: ``step``, ``decoder_uncertainty``, ``encoding_uncertainty``,
        ``encoding_entropy`` in nats, and ``sharing``, the number of classes that share their most probable
        category.
    """
    if objective not in ("decoder", "prediction") or decoder not in ("learned", "optimal"):
        raise ValueError(
            f"objective={objective!r}, decoder={decoder!r}; expected 'decoder' or 'prediction', "
            "'learned' or 'optimal'"
        )
    train, size = splits.train, spec.train.batch_size
    images = train.normalised(slice(None))
    shape = {"channels": images.shape[1], "size": images.shape[2], "classes": train.classes}
    model = build_classifier(spec.model, **shape, seed=spec.seed)
    if not isinstance(model.head, CategoricalHead):
        raise ValueError(f"run {spec.architecture} has a continuous latent; expected a categorical one")
    loss = decoder_cross_entropy if objective == "decoder" else prediction_cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.train.learning_rate)
    generator = torch.Generator().manual_seed(spec.seed)
    member = torch.nn.functional.one_hot(train.label, train.classes).float()
    seen = torch.randperm(len(train), generator=generator)[:points]
    order, rows = torch.empty(0, dtype=torch.int64), []
    for step in range(steps + 1):
        if step % every == 0:
            rows.append({"step": step, **_measured(model, images[seen], train.label[seen])})
        if len(order) < min(size, len(train)):
            order = torch.randperm(len(train), generator=generator)
        some, order = order[:size], order[size:]
        output = model(images[some])
        table = output.decoder
        if decoder == "optimal":
            best = optimal_decoder(output.latent.detach().T @ member[some])
            table = best.clamp(min=torch.finfo(best.dtype).tiny).log()
        optimizer.zero_grad()
        loss(output.latent, table[None], train.label[some]).backward()
        optimizer.step()
    return pd.DataFrame(rows)


@torch.no_grad()
def _measured(model: Classifier, images: Tensor, label: Tensor) -> dict[str, float]:
    weight = model.eval()(images).latent.double()
    model.train()
    found = categorical_quantities(weight, label)
    return {
        "decoder_uncertainty": found.decoder_uncertainty,
        "encoding_uncertainty": found.encoding_uncertainty,
        "encoding_entropy": found.encoding_entropy,
        "sharing": float(sum(len(group) for group in shared_classes(weight, label))),
    }
