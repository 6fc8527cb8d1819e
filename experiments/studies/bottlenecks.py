"""The runs of Kirsch et al.'s Figures 1 and 3 to 6, and of the chapter in which the two papers meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.studies import profiles
from experiments.studies.bottleneck_profiles import Part, Scale, scale
from experiments.studies.bottleneck_summaries import with_summaries
from lpc.data import Splits, load_images
from lpc.devices import default_workers
from lpc.errors import unknown_name
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs import execute_all, load_model
from lpc.specs import DataSpec, ModelSpec, Objective, Penalty, RunSpec, run_key, variant_spec
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
MEETING = ("IB", "LinPen")
"""Architectures that are trained with noise where the two papers meet."""


def name_of(regularizer: str, gamma: float) -> str:
    """Return the name of a surrogate's run: ``norm-0.01``."""
    return f"{regularizer}-{gamma:g}"


CLIFF = ("dropout-cliff", 10.0, 0.1)
"""Name, first sd and its factor an epoch of the noise-free runs whose latents shrink below float32's."""


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
    rescaled = replace(_continuous(part), rescaled=True)
    name, sd, factor = CLIFF
    epochs = max(part.train.epochs, 48)
    yield from _trials("dropout", part, rescaled)
    yield from _trials("dropout-noise", part, replace(rescaled, latent_noise="zero_entropy"))
    yield from _trials(name, part, rescaled, latent_sd=sd, latent_sd_factor=factor, epochs=epochs)
    part = scale.surrogates
    noisy = replace(_continuous(part), latent_noise="zero_entropy")
    for name, penalty in SURROGATES.items():
        for gamma in scale.gammas:
            constant = {"gamma_initial": gamma, "gamma_factor": 1.0, "gamma_maximum": gamma}
            yield from _trials(name_of(name, gamma), part, noisy, penalty=penalty, **constant)
    yield from _meeting(scale)


def _meeting(scale: Scale) -> Iterator[RunSpec]:
    """Yield latent point collapse, and the same without penalty, with zero-entropy noise on the latent."""
    if not scale.meeting:
        return
    chosen = profiles.profile(scale.name)
    rate = sorted(chosen.learning_rates)[len(chosen.learning_rates) // 2]
    every = max(1, chosen.train.record_every // 2)
    train = replace(chosen.train, learning_rate=rate, metrics="information", record_every=every)
    for architecture in MEETING:
        for seed in range(scale.meeting):
            run = variant_spec(
                architecture,
                data=chosen.data,
                backbone=chosen.backbone,
                backbone_width=chosen.backbone_width,
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
    return tuple(dict.fromkeys(spec.architecture for spec in _specs(scale(name))))


def declared(name: str, *, seeds: int | None = None, only: Sequence[str] | None = None) -> list[RunSpec]:
    """Return the runs of a profile.

    Parameters
    ----------
    name
        Of the profile.
    seeds
        Most trials of a setting; None: as many as the profile has.
    only
        Names of runs, or what they begin with (``permuted``, ``norm``); None: all.

    Raises
    ------
    ValueError
        An unknown profile or name, or no trial.
    """
    if seeds is not None and not (type(seeds) is int and seeds >= 1):
        raise ValueError(f"seeds is {seeds!r}; expected 1 or more, or None")
    known = names(name)
    for wanted in only or ():
        if not any(one.startswith(wanted) for one in known):
            raise unknown_name(f"run of profile {name}", wanted, known)
    return [
        spec
        for spec in _specs(scale(name))
        if (seeds is None or spec.seed < seeds)
        and (only is None or spec.architecture.startswith(tuple(only)))
    ]


@dataclass(frozen=True)
class Bottlenecks:
    """The runs of a profile that a chapter reads.

    Attributes
    ----------
    scale
        How much of each figure is declared.
    specs
        The runs.
    store
        Where they are.
    """

    scale: Scale
    specs: list[RunSpec]
    store: RunStore

    @cached_property
    def _begun(self) -> pd.DataFrame:
        rows = self.store.frame()
        if rows.empty:
            return pd.DataFrame(columns=["key", "architecture", "seed", "status"])
        rows = rows.set_index("key")
        return rows.loc[[key for key in map(run_key, self.specs) if key in rows.index]].reset_index()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run that has begun, in declared order: spec, status, last metrics, summaries."""
        return with_summaries(self._begun, self.history)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a run and recorded epoch, with its name and seed; runs that failed later are among them."""
        named = self._begun[["key", "architecture", "seed"]]
        lines = self.store.history(named["key"]).merge(named, on="key", how="inner")
        recorded = lines[lines["accuracy"].notna()] if "accuracy" in lines else lines
        return recorded.reset_index(drop=True)

    def spec(self, architecture: str, seed: int) -> RunSpec:
        """Return a run by name and seed."""
        for spec in self.specs:
            if (spec.architecture, spec.seed) == (architecture, seed):
                return spec
        known = dict.fromkeys(spec.architecture for spec in self.specs)
        raise unknown_name(f"run with seed {seed} of profile {self.scale.name}", architecture, known)

    def images(self, architecture: str) -> Splits:
        """Return the data of a run, on the CPU."""
        data = self.spec(architecture, 0).data
        if data not in self._images:
            self._images[data] = load_images(data)
        return self._images[data]

    @cached_property
    def _images(self) -> dict[DataSpec, Splits]:
        return {}

    def classifier(self, architecture: str, seed: int) -> Classifier:
        """Return a finished run's classifier in evaluation mode, on the CPU."""
        return load_model(self.spec(architecture, seed), self.store, self.images(architecture).train)

    def latents(self, architecture: str, seed: int) -> Latents:
        """Return a finished run's latents of its train set, without noise, on the CPU."""
        return collect(self.classifier(architecture, seed), self.images(architecture).train)


def existing(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
) -> Bottlenecks:
    """Return the runs of a profile as they are in the store, training nothing."""
    return Bottlenecks(scale(name), declared(name, seeds=seeds, only=only), RunStore(store))


def study(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
    workers: int | None = None,
    progress: bool = True,
) -> Bottlenecks:
    """Return the runs of a profile, after training whatever is missing.

    Parameters
    ----------
    name, seeds, only
        As in :func:`declared`.
    store
        Folder of the run store.
    workers
        Processes; None: one a core, one on a GPU.
    progress
        Whether to show a progress bar.
    """
    found = existing(name, seeds=seeds, only=only, store=store)
    execute_all(found.specs, found.store, workers=workers or default_workers(), progress=progress)
    return existing(name, seeds=seeds, only=only, store=store)
