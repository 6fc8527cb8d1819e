"""Profiles choose how much is run, never what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lpc.specs import VARIANTS, DataSpec, RunSpec, TrainSpec, unknown_name, variant_spec

PAPER_EPOCHS = 800


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How much of the ablation is run, and on what data.

    Attributes
    ----------
    name, summary
        Its name, and a line that the book prints about it.
    data, backbone, backbone_width, train
        Shared by all runs; ``train`` carries the schedules, its learning rate is replaced.
    learning_rates, seeds
        Every architecture is trained with each of them.
    minutes
        Training time on two CPU cores, as last measured.
    """

    name: str
    summary: str
    data: DataSpec
    backbone: str
    backbone_width: int
    train: TrainSpec
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    minutes: float


def scaled_schedule(*, epochs: int, gamma_maximum: float, batch_size: int = 128) -> TrainSpec:
    """Return Appendix C's schedules with their 800 epochs scaled to ``epochs``.

    The learning rate is halved from epoch 250 of 800 and every 50 of 800 after; gamma starts at 1e-2 and
    reaches ``gamma_maximum`` at epoch 378 of 800, where the paper's reaches 1e6 on CIFAR; metrics are
    recorded every 50 of 800.

    Parameters
    ----------
    epochs, batch_size
        Length of training.
    gamma_maximum
        What the budget can carry (``lpc.equilibrium.carried_gamma``).
    """
    scale = epochs / PAPER_EPOCHS
    every = max(1, round(50 * scale))
    return TrainSpec(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1.0,  # replaced by each run's own
        decay_start=round(250 * scale),
        decay_every=every,
        record_every=every,
        gamma_initial=1e-2,
        gamma_factor=(gamma_maximum / 1e-2) ** (1 / (378 * scale)),
        gamma_maximum=gamma_maximum,
    )


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            summary="200 digits, 4 epochs: for tests, its numbers mean nothing",
            data=DataSpec(name="digits", validation=100, train_limit=200, noise=0.01),
            backbone="mlp",
            backbone_width=12,
            train=replace(scaled_schedule(epochs=4, gamma_maximum=1.0, batch_size=64), record_every=2),
            learning_rates=(5e-3, 1e-2),
            seeds=(0, 1),
            minutes=0.2,
        ),
        Profile(
            name="laptop",
            summary="scikit-learn's digits (1,197 train, 240 validation, 360 test images of 8 x 8 pixels), "
            "an MLP of two hidden layers of 128 units, 400 epochs",
            data=DataSpec(name="digits", validation=240, noise=0.01),
            backbone="mlp",
            backbone_width=128,
            train=scaled_schedule(epochs=400, gamma_maximum=1e3),
            learning_rates=(5e-3, 1e-2, 2e-2),
            seeds=(0, 1, 2),
            minutes=7,
        ),
    )
}


def profile(name: str) -> Profile:
    """Return a profile by name; an unknown name is a ValueError with the nearest ones."""
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def specs(chosen: Profile, *, seeds: int | None = None, only: tuple[str, ...] | None = None) -> list[RunSpec]:
    """Return the runs of a profile: architectures x learning rates x seeds.

    Parameters
    ----------
    chosen
        The profile.
    seeds
        Number of seeds, from the profile's first; None: all of them.
    only
        Architectures, in the order of ``VARIANTS``; None: all of them.
    """
    for name in only or ():
        if name not in VARIANTS:
            raise unknown_name("architecture", name, VARIANTS)
    if seeds is not None and not (type(seeds) is int and 1 <= seeds <= len(chosen.seeds)):
        raise ValueError(f"seeds is {seeds!r}; profile {chosen.name} has 1 to {len(chosen.seeds)}")
    return [
        variant_spec(
            architecture,
            data=chosen.data,
            backbone=chosen.backbone,
            backbone_width=chosen.backbone_width,
            train=replace(chosen.train, learning_rate=rate),
            seed=seed,
        )
        for architecture in VARIANTS
        if only is None or architecture in only
        for rate in chosen.learning_rates
        for seed in chosen.seeds[:seeds]
    ]
