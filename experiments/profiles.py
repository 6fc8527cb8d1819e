"""Profiles choose how much is run, never what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lpc.equilibrium import carried_gamma
from lpc.specs import VARIANTS, DataSpec, RunSpec, TrainSpec, unknown_name, variant_spec

PAPER_EPOCHS = 800
PAPER_RATES = tuple(1e-4 * 2**step for step in range(5))
"""Learning rates of LPC Appendix C."""
PAPER_ARCHITECTURES = tuple(name for name in VARIANTS if name not in ("LinPenDropout", "NonLinIB"))
"""The eight of LPC Table 3."""
PAPER_DATA = DataSpec(name="cifar10", validation=5_000, flip=True, crop_padding=4, noise=0.01)
"""Augmentation of LPC Appendix C. The paper does not say what its validation set was: 5,000 of CIFAR's 50,000
training images are what He et al. 2016 (Section 4.2) hold out; one image is then worth 0.02 points, and
CIFAR100 has 50 a class. SVHN's is as large. It is stratified, and the same for every run."""

_PAPER_TRAIN = TrainSpec(
    epochs=PAPER_EPOCHS,
    batch_size=128,  # the release's; the paper gives none
    learning_rate=PAPER_RATES[0],
    weight_decay=0.5e-4,
    decay_start=250,
    decay_every=50,
    record_every=50,
    accuracy_every=5,  # ours, as is the precision
    precision="bfloat16",
    gamma_initial=1e-2,
    gamma_factor=1.05,
    gamma_maximum=1e6,
)
PAPER_TRAIN: Mapping[str, TrainSpec] = {
    "SVHN": replace(_PAPER_TRAIN, gamma_factor=1.03, gamma_maximum=1e5),
    "CIFAR10": _PAPER_TRAIN,
    "CIFAR100": _PAPER_TRAIN,
}
"""Schedules of LPC Appendix C by data set; the profiles ``paper-*`` train with them."""

FASHION_RATES = (2e-3, 4e-3, 8e-3)
FASHION_FROZEN: Mapping[str, float] = {
    **dict.fromkeys(VARIANTS, 8e-3),
    "NonLinPen": 4e-3,
    "NonLinPenL1": 4e-3,
}
"""The rate of every architecture in profile ``fashion``, frozen before it is run: the one with the best mean
validation accuracy over the recorded runs of ``fashion-cpu``, ties to the lower cross-entropy."""


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
    architectures
        Keys of ``lpc.specs.VARIANTS``.
    frozen
        A learning rate for every architecture, found elsewhere and trained alone; None: all of them.
    retrain
        Whether the selected learning rate is trained again on the full train set, validation images
        included; that run is then the one that is measured on the test set.
    seeds_first
        Whether one seed of everything is trained before the next seed.
    minutes
        Training time on two CPU cores, as last measured; None: not measured.
    """

    name: str
    summary: str
    data: DataSpec
    backbone: str
    backbone_width: int
    train: TrainSpec
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    architectures: tuple[str, ...] = tuple(VARIANTS)
    frozen: Mapping[str, float] | None = None
    retrain: bool = False
    seeds_first: bool = False
    minutes: float | None = None

    def rates(self, architecture: str) -> tuple[float, ...]:
        """Return the learning rates that an architecture is trained with."""
        return self.learning_rates if self.frozen is None else (self.frozen[architecture],)


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


def carried_schedule(*, epochs: int, images: int, slowest: float, batch_size: int = 128) -> TrainSpec:
    """Return Appendix C's schedules scaled, with the gamma at which IB can hold a logit gap of 2.

    Parameters
    ----------
    epochs, batch_size
        Length of training.
    images
        Training images; with epochs and batch they give the number of steps.
    slowest
        The smallest learning rate: the law (``lpc.equilibrium.carried_gamma``) is asked for 10 classes and
        8 nodes, and its gamma is rounded to one digit.
    """
    steps = epochs * math.ceil(images / batch_size)
    gamma = carried_gamma(gap=2.0, classes=10, width=8, learning_rate=slowest, steps=steps)
    return scaled_schedule(epochs=epochs, gamma_maximum=float(f"{gamma:.0e}"), batch_size=batch_size)


def _paper(dataset: str, *, backbone: str) -> Profile:
    return Profile(
        name=f"paper-{dataset.lower()}",
        summary=f"{dataset}, all as the paper's Appendix C says: {PAPER_EPOCHS} epochs of a "
        f"{backbone.replace('resnet', 'ResNet-')}",
        data=replace(PAPER_DATA, name=dataset.lower()),
        backbone=backbone,
        backbone_width=64,
        train=PAPER_TRAIN[dataset],
        learning_rates=PAPER_RATES,
        seeds=(0, 1, 2, 3, 4),
        architectures=PAPER_ARCHITECTURES,
        retrain=True,
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
            train=replace(scaled_schedule(epochs=4, gamma_maximum=0.1, batch_size=64), record_every=2),
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
            train=carried_schedule(epochs=400, images=1_197, slowest=5e-3),
            learning_rates=(5e-3, 1e-2, 2e-2),
            seeds=(0, 1, 2),
            minutes=7,
        ),
        Profile(
            name="fashion-cpu",
            summary="2,000 of Fashion-MNIST's training images padded to 32 x 32 pixels, 1,000 validation "
            "images, all 10,000 test images, a ResNet-18 with an eighth of its width, 50 epochs",
            data=DataSpec(
                name="fashion_mnist", validation=1_000, train_limit=2_000, size=32, flip=True, noise=0.01
            ),  # no crops: with them 50 epochs do not reach the terminal phase
            backbone="resnet18",
            backbone_width=8,
            train=replace(
                carried_schedule(epochs=50, images=2_000, slowest=FASHION_RATES[0], batch_size=64),
                accuracy_every=2,
                precision="bfloat16",
            ),
            learning_rates=FASHION_RATES,
            seeds=(0, 1),
            seeds_first=True,
        ),
        Profile(
            name="fashion",
            summary="Fashion-MNIST padded to 32 x 32 pixels (55,000 train, 5,000 validation, 10,000 test "
            "images), ResNet-18, 100 epochs; the selected runs are not trained again on the full train set",
            data=replace(PAPER_DATA, name="fashion_mnist", size=32),
            backbone="resnet18",
            backbone_width=64,
            train=replace(
                carried_schedule(epochs=100, images=55_000, slowest=FASHION_RATES[0]),
                accuracy_every=2,
                precision="bfloat16",
            ),
            learning_rates=FASHION_RATES,
            seeds=(0, 1, 2),
            frozen=FASHION_FROZEN,
            seeds_first=True,
        ),
        _paper("SVHN", backbone="resnet18"),
        _paper("CIFAR10", backbone="resnet18"),
        _paper("CIFAR100", backbone="resnet50"),
    )
}

GROUPS: Mapping[str, tuple[str, ...]] = {"paper": ("paper-svhn", "paper-cifar10", "paper-cifar100")}
"""Profiles that are named together on the command line."""
LIVE = ("smoke", "laptop")
"""Profiles that are trained with the book, in minutes; the results of all others are recorded."""


def profile(name: str) -> Profile:
    """Return a profile by name; an unknown name is a ValueError with the nearest ones."""
    if name in GROUPS:
        raise ValueError(f"{name!r} is a group of profiles; expected one of them: {', '.join(GROUPS[name])}")
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def resolve(name: str, dataset: str | None = None) -> tuple[Profile, ...]:
    """Return the profiles that a profile's or a group's name stands for.

    Parameters
    ----------
    name
        A key of :data:`PROFILES` or :data:`GROUPS`.
    dataset
        Keep the one of this data set, in any spelling of CIFAR10 or Fashion-MNIST; None: keep all.

    Raises
    ------
    ValueError
        A name that is neither, or a data set that none of these profiles trains on.
    """
    if name not in PROFILES and name not in GROUPS:
        raise unknown_name("profile", name, [*PROFILES, *GROUPS])
    found = tuple(PROFILES[member] for member in GROUPS.get(name, (name,)))
    if dataset is None:
        return found
    wanted = dataset.lower().replace("-", "_")
    kept = tuple(one for one in found if one.data.name == wanted)
    if not kept:
        raise unknown_name(f"data set of profile {name}", wanted, [one.data.name for one in found])
    return kept


def specs(chosen: Profile, *, seeds: int | None = None, only: tuple[str, ...] | None = None) -> list[RunSpec]:
    """Return the runs of a profile: architectures x learning rates x seeds.

    Parameters
    ----------
    chosen
        The profile.
    seeds
        Number of seeds, from the profile's first; None: all of them.
    only
        Architectures, in the order of the profile; None: all of them.
    """
    for name in only or ():
        if name not in VARIANTS:
            raise unknown_name("architecture", name, VARIANTS)
        if name not in chosen.architectures:
            raise unknown_name(f"architecture of profile {chosen.name}", name, chosen.architectures)
    if seeds is not None and not (type(seeds) is int and 1 <= seeds <= len(chosen.seeds)):
        raise ValueError(f"seeds is {seeds!r}; profile {chosen.name} has 1 to {len(chosen.seeds)}")
    runs = [
        variant_spec(
            architecture,
            data=chosen.data,
            backbone=chosen.backbone,
            backbone_width=chosen.backbone_width,
            train=replace(chosen.train, learning_rate=rate),
            seed=seed,
        )
        for architecture in chosen.architectures
        if only is None or architecture in only
        for rate in chosen.rates(architecture)
        for seed in chosen.seeds[:seeds]
    ]
    return sorted(runs, key=lambda run: chosen.seeds.index(run.seed)) if chosen.seeds_first else runs
