"""The runs of Kirsch et al.'s Figures 1 and 3 to 6, and of the chapter in which the two papers meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from experiments import profiles
from lpc.data import Splits, load_images
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.machine import default_workers
from lpc.runs import execute_all, load_model
from lpc.specs import (
    DataSpec,
    ModelSpec,
    Objective,
    Penalty,
    RunSpec,
    TrainSpec,
    run_key,
    unknown_name,
    variant_spec,
)
from lpc.store import RunStore

OBJECTIVES: Mapping[str, Objective] = {
    "uncertainty": "decoder_uncertainty",
    "decoder": "decoder_cross_entropy",
    "prediction": "prediction_cross_entropy",
}
"""What is minimised in Figure 3."""
SURROGATES: Mapping[str, Penalty] = {
    "norm": "squared_norm",
    "variance": "log_variance",
    "conditional": "conditional_log_variance",
}
"""Regularizers of Observation 8."""
GAMMAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Their weights: from 1e-4 to 10 in log space (Section 7.3)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """How much of one figure is run: data, network, width of the latent, length of training, trials."""

    data: DataSpec
    backbone: str
    backbone_width: int
    latent_width: int
    train: TrainSpec
    trials: int
    decoder_width: int = 1024


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run under a profile's name.

    Attributes
    ----------
    name, summary
        Of the profile, and a line that the book prints about it.
    permuted, images
        Figure 3, on pixels in permuted places and on images.
    dropout
        Figure 4.
    surrogates, gammas
        Figures 1, 5 and 6.
    meeting
        Trials of the runs of latent point collapse with noise, which are otherwise the profile's of the
        ablation; 0: none.
    """

    name: str
    summary: str
    permuted: Part
    images: Part
    dropout: Part
    surrogates: Part
    gammas: tuple[float, ...] = GAMMAS
    meeting: int = 0


def _adam(*, epochs: int, rate: float, every: int, **changes: object) -> TrainSpec:
    """Return Section 7's training: Adam, the rate times 0.8 on a plateau of more than 3 epochs."""
    train = TrainSpec(
        epochs=epochs,
        learning_rate=rate,
        weight_decay=0.0,
        plateau_factor=0.8,
        plateau_patience=3,
        record_every=every,
        accuracy_every=every,
        metrics="information",
    )
    return replace(train, **changes)  # type: ignore[arg-type]


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            name="laptop",
            summary="scikit-learn's digits (1,437 train, 360 test images of 8 x 8 pixels), small networks",
            permuted=Part(
                data=DataSpec(name="digits", permutation_seed=0),
                backbone="relu_mlp",
                backbone_width=256,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=60, rate=1e-3, every=4),
                trials=8,
            ),
            images=Part(
                data=DataSpec(name="digits"),
                backbone="small_cnn",
                backbone_width=8,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=60, rate=1e-3, every=4),
                trials=8,
            ),
            dropout=Part(
                data=DataSpec(name="digits"),
                backbone="dropout_cnn",
                backbone_width=16,
                latent_width=32,
                train=_adam(epochs=48, rate=1e-3, every=1, samples=12, latent_sd=10.0, latent_sd_factor=0.1),
                trials=3,
            ),
            surrogates=Part(
                data=DataSpec(name="digits"),
                backbone="mlp",
                backbone_width=128,
                latent_width=16,
                train=_adam(epochs=100, rate=1e-3, every=5),
                trials=3,
            ),
            meeting=3,
        ),
    )
}


def name_of(regularizer: str, gamma: float) -> str:
    """Return the name of a surrogate's run: ``norm-0.01``."""
    return f"{regularizer}-{gamma:g}"


def _specs(scale: Scale) -> Iterator[RunSpec]:
    for place, part in (("permuted", scale.permuted), ("images", scale.images)):
        for name, objective in OBJECTIVES.items():
            model = ModelSpec(
                backbone=part.backbone,
                backbone_width=part.backbone_width,
                penultimate="linear",
                latent_width=part.latent_width,
                encoder="categorical",
                decoder="optimal" if objective == "decoder_uncertainty" else "network",
                decoder_width=part.decoder_width,
            )
            yield from _trials(f"{place}-{name}", part, model, objective=objective)
    part = scale.dropout
    for noise in ("none", "zero_entropy"):
        model = replace(_continuous(part), latent_noise=noise, rescaled=True)
        yield from _trials("dropout-noise" if noise != "none" else "dropout", part, model)
    part = scale.surrogates
    for name, penalty in SURROGATES.items():
        for gamma in scale.gammas:
            yield from _trials(
                name_of(name, gamma),
                part,
                replace(_continuous(part), latent_noise="zero_entropy"),
                penalty=penalty,
                gamma_initial=gamma,
                gamma_factor=1.0,
                gamma_maximum=gamma,
            )


def _continuous(part: Part) -> ModelSpec:
    return ModelSpec(
        backbone=part.backbone,
        backbone_width=part.backbone_width,
        penultimate="linear",
        latent_width=part.latent_width,
    )


def _trials(name: str, part: Part, model: ModelSpec, **changes: object) -> Iterator[RunSpec]:
    train = replace(part.train, **changes)  # type: ignore[arg-type]
    for seed in range(part.trials):
        yield RunSpec(architecture=name, data=part.data, model=model, train=train, seed=seed)
