"""gamma against budget: the logit gap of a run's classifier beside the closed form's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from experiments.studies.study import Study
from lpc.equilibrium import logit_gap, reachable_separation
from lpc.latents import collect
from lpc.runs import load_model
from lpc.runs.measurements import accuracy


class Readout(NamedTuple):
    """Measures of a classifier on latents.

    Attributes
    ----------
    separation, farthest
        Root mean square and largest distance between two weight vectors of the classifier.
    gap, law
        Mean over points of the true logit minus the mean of the others, without biases; and the value of
        :func:`lpc.equilibrium.logit_gap` at ``separation``.
    bias_range
        Largest minus smallest bias.
    accuracy, bias_free_accuracy
        Accuracy with and without the biases.
    cross_entropy
        Mean cross-entropy over points, in nats.
    """

    separation: float
    farthest: float
    gap: float
    law: float
    bias_range: float
    accuracy: float
    bias_free_accuracy: float
    cross_entropy: float


def readout(
    latent: Float[Tensor, "points width"],
    label: Integer[Tensor, " points"],
    *,
    weight: Float[Tensor, "classes width"],
    bias: Float[Tensor, " classes"],
    gamma: float,
) -> Readout:
    """Compare a classifier's logit gap with the closed form for the separation of its weights.

    Parameters
    ----------
    latent, label
        Latents and labels.
    weight, bias
        Weight and bias of the classifier.
    gamma
        Weight gamma at which the latents were found, in Eq. 3's convention.
    """
    latent, weight, bias = latent.double(), weight.double(), bias.double()
    classes = len(weight)
    distance = torch.pdist(weight)
    separation = float(distance.square().mean().sqrt())
    logits = latent @ weight.T
    true = logits.gather(1, label[:, None].long())[:, 0]
    biased = logits + bias
    return Readout(
        separation=separation,
        farthest=float(distance.max()),
        gap=float((true - (logits.sum(1) - true) / (classes - 1)).mean()),
        law=logit_gap(gamma, classes=classes, separation=separation),
        bias_range=float(bias.max() - bias.min()),
        accuracy=accuracy(biased, label),
        bias_free_accuracy=accuracy(logits, label),
        cross_entropy=float(torch.nn.functional.cross_entropy(biased, label.long())),
    )


def penalised(study: Study) -> pd.DataFrame:
    """Return, on its train set, one row per finished run with the squared-norm penalty, selected or not.

    Parameters
    ----------
    study
        Study with the runs of a profile.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``learning_rate``, ``seed``, ``gamma`` (the last epoch's, in Eq. 3's
        convention), ``reach`` (:func:`lpc.equilibrium.reachable_separation`), the fields of :class:`Readout`,
        ``nearest_mean_accuracy`` and ``readout_lost``.
    """
    images = study.searched_images_at_hand.train
    rows = []
    finished = study.frame[study.frame["status"] == "finished"]
    for _, run in finished[finished["train.penalty"] == "squared_norm"].iterrows():
        spec = study.store.spec(str(run["key"]))
        model = load_model(spec, study.store, images)
        latents = collect(model, images)
        classifier: Any = model.head.classifier
        weight, bias = classifier.weight.detach(), classifier.bias.detach()
        width = int(weight.shape[1])
        gamma = float(run["gamma"]) / (width if spec.train.penalty_reduction == "mean" else 1)
        steps = spec.train.epochs * math.ceil(len(images) / spec.train.batch_size)
        rows.append(
            {
                "architecture": spec.architecture,
                "learning_rate": spec.train.learning_rate,
                "seed": spec.seed,
                "gamma": gamma,
                "reach": reachable_separation(
                    width=width,
                    learning_rate=spec.train.learning_rate,
                    steps=steps,
                    classes=images.classes,
                ),
                **readout(latents.latent, latents.label, weight=weight, bias=bias, gamma=gamma)._asdict(),
                "nearest_mean_accuracy": run["nearest_mean_accuracy"],
                "readout_lost": bool(run["readout_lost"]),
            }
        )
    return pd.DataFrame(rows)
