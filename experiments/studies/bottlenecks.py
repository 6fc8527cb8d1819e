"""The runs for Kirsch et al.'s Figures 1 and 3 to 6, and for the chapter in which the two papers meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from experiments.studies import profiles
from experiments.studies.bottleneck_profiles import (
    BOTTLENECK_PROFILES,
    BottleneckProfile,
    Part,
    bottleneck_profile,
)
from experiments.studies.bottleneck_summaries import with_summaries
from experiments.studies.study import Kind
from lpc.errors import unknown_name
from lpc.specs import ModelSpec, Objective, Penalty, RunSpec, variant_spec

OBJECTIVES: Mapping[str, Objective] = {
    "uncertainty": "decoder_uncertainty",
    "decoder": "decoder_cross_entropy",
    "prediction": "prediction_cross_entropy",
}
"""Objectives of Figure 3."""
SURROGATES: Mapping[str, Penalty] = {
    "norm": "squared_norm",
    "variance": "log_variance",
    "conditional": "conditional_log_variance",
}
"""Regularizers of Observation 8."""
MEETING = ("IB", "LinPen")
"""Architectures that are trained with noise for the chapter on both papers."""


def name_of(regularizer: str, gamma: float) -> str:
    """Return the name of a surrogate's run, such as ``norm-0.01``."""
    return f"{regularizer}-{gamma:g}"


CLIFF = ("dropout-cliff", 10.0, 0.1)
"""Name, first sd, and factor of the sd per epoch, of the noise-free runs whose latents shrink until float32
no longer resolves them."""


def _specs(chosen: BottleneckProfile) -> Iterator[RunSpec]:
    for place, part in (("permuted", chosen.permuted), ("images", chosen.images)):
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
    part = chosen.dropout
    rescaled = replace(_continuous(part), rescaled=True)
    name, sd, factor = CLIFF
    epochs = max(part.train.epochs, 48)
    yield from _trials("dropout", part, rescaled)
    yield from _trials("dropout-noise", part, replace(rescaled, latent_noise="zero_entropy"))
    yield from _trials(name, part, rescaled, latent_sd=sd, latent_sd_factor=factor, epochs=epochs)
    part = chosen.surrogates
    noisy = replace(_continuous(part), latent_noise="zero_entropy")
    for name, penalty in SURROGATES.items():
        for gamma in chosen.gammas:
            constant = {"gamma_initial": gamma, "gamma_factor": 1.0, "gamma_maximum": gamma}
            yield from _trials(name_of(name, gamma), part, noisy, penalty=penalty, **constant)
    yield from _meeting(chosen)


def _meeting(chosen: BottleneckProfile) -> Iterator[RunSpec]:
    """Yield runs of latent point collapse and, without penalty, its control, with zero-entropy noise."""
    if not chosen.meeting:
        return
    same = profiles.profile(chosen.name)
    rate = sorted(same.learning_rates)[len(same.learning_rates) // 2]
    every = max(1, same.train.record_every // 2)
    train = replace(same.train, learning_rate=rate, metrics="information", record_every=every)
    for architecture in MEETING:
        for seed in range(chosen.meeting):
            run = variant_spec(
                architecture,
                data=same.data,
                backbone=same.backbone,
                backbone_width=same.backbone_width,
                train=train,
                seed=seed,
            )
            model = replace(run.model, latent_noise="zero_entropy")
            yield replace(run, architecture=f"{architecture}-noise", model=model)


def _continuous(part: Part) -> ModelSpec:
    return ModelSpec(
        backbone=part.backbone,
        backbone_width=part.backbone_width,
        penultimate="linear",
        latent_width=part.latent_width,
    )


def _trials(name: str, part: Part, model: ModelSpec, **changes: Any) -> Iterator[RunSpec]:
    train = replace(part.train, **changes)
    for seed in range(part.trials):
        yield RunSpec(architecture=name, data=part.data, model=model, train=train, seed=seed)


@cache
def names(name: str) -> tuple[str, ...]:
    """Return the names of a profile's runs, each once, in declared order."""
    return tuple(dict.fromkeys(spec.architecture for spec in _specs(bottleneck_profile(name))))


def declared(name: str, *, seeds: int | None = None, only: Sequence[str] | None = None) -> list[RunSpec]:
    """Return the runs of a profile.

    Parameters
    ----------
    name
        Name of the profile.
    seeds
        Largest number of trials per setting; None: as many as the profile has.
    only
        Names of runs, or their beginnings (``permuted``, ``norm``); None: all.

    Raises
    ------
    ValueError
        If the profile or a name is unknown, or ``seeds`` is less than 1.
    """
    if seeds is not None and not (type(seeds) is int and seeds >= 1):
        raise ValueError(f"seeds is {seeds!r}; expected 1 or more, or None")
    known = names(name)
    for wanted in only or ():
        if not any(one.startswith(wanted) for one in known):
            raise unknown_name(f"run of profile {name}", wanted, known)
    return [
        spec
        for spec in _specs(bottleneck_profile(name))
        if (seeds is None or spec.seed < seeds)
        and (only is None or spec.architecture.startswith(tuple(only)))
    ]


def resolve(name: str, dataset: str | None = None) -> tuple[BottleneckProfile]:
    """Return a profile by name, as a tuple of one.

    Raises
    ------
    ValueError
        If the profile is unknown, or a data set is given: the runs of one profile use several.
    """
    if dataset is not None:
        raise ValueError(
            f"--dataset is {dataset!r}, but a profile's bottleneck runs use several data sets: leave it out"
        )
    return (bottleneck_profile(name),)


BOTTLENECKS: Kind[BottleneckProfile] = Kind(
    name="bottlenecks",
    profiles=BOTTLENECK_PROFILES,
    resolve=resolve,
    declared=declared,
    selects=False,
    recorded_with="accuracy",
    summaries=with_summaries,
)
existing = BOTTLENECKS.existing
study = BOTTLENECKS.study
