"""Profiles: they set how much is run, never what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from experiments.studies.apart_profiles import APART
from experiments.studies.profile_fields import Profile
from experiments.studies.schedules import (
    EMBEDDING_EPOCHS,
    EMBEDDING_GROWTH,
    EMBEDDING_TRAIN,
    PAPER_EPOCHS,
    PAPER_RATES,
    PAPER_TRAIN,
    carried_maximum,
    carried_schedule,
    embedding_schedule,
    scaled_schedule,
)
from lpc.errors import unknown_name
from lpc.specs import EMBEDDINGS, GAMMAS, VARIANTS, DataSpec, RunSpec, Variant, variant_spec

PAPER_ARCHITECTURES = tuple(name for name in VARIANTS if name not in ("LinPenDropout", "NonLinIB"))
"""The eight of LPC Table 3."""
PAPER_DATA = DataSpec(name="cifar10", validation=5_000, flip=True, crop_padding=4, noise=0.01)
"""Augmentation of LPC Appendix C. The paper does not say what its validation set was. Like He et al. 2016
(Section 4.2), we hold out 5,000 of CIFAR's 50,000 training images: one image is then worth 0.02 points, and
CIFAR100 has 50 per class. SVHN's validation set is as large. The split is stratified and the same for every
run."""

FASHION_RATES = (2e-3, 4e-3, 8e-3)
FASHION_FROZEN: Mapping[str, float] = {
    **dict.fromkeys(VARIANTS, 8e-3),
    "NonLinPen": 4e-3,
    "NonLinPenL1": 4e-3,
}
"""The learning rate of every architecture in profile ``fashion``, frozen before it is run: the one with the
best mean validation accuracy in the recorded runs of ``fashion-cpu``. Ties go to the lower cross-entropy."""


def _paper(dataset: str, *, backbone: str) -> Profile:
    return Profile(
        name=f"paper-{dataset.lower()}",
        summary=f"{dataset}, everything as in the paper's Appendix C: {PAPER_EPOCHS} epochs of a "
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


_PLAIN: Mapping[str, Profile] = {
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

ATTACKED: Mapping[str, Variant] = {name: VARIANTS[name] for name in ("IB", "WideIB", "NoPen", "LinPen")}
"""Architectures that are attacked where attacks on all would take too long."""
SIBLINGS: Mapping[str, Mapping[str, Variant]] = {
    "embedding": EMBEDDINGS,
    "gammas": GAMMAS,
    "attacked": ATTACKED,
}
"""Other tables of architectures; the sibling ``<profile>-<table>`` trains such a table for a profile."""


def _sibling(plain: str, table: str, summary: str, **changes: Any) -> Profile:
    base = _PLAIN[plain]
    return replace(
        base,
        name=f"{plain}-{table}",
        summary=f"{summary}; otherwise as profile {plain}",
        variants=SIBLINGS[table],
        architectures=(),
        **{"frozen": None, "minutes": None, **changes},
    )


def _embedding(plain: str, *, epochs: int, images: int, rate: float, **changes: Any) -> Profile:
    """Return the 2025 release's embeddings scaled to a budget, at one learning rate.

    gamma ends at the largest value at which 32 nodes, the fewest, can hold a logit gap of 2. It gets there
    after a quarter of the training, as in the release.
    """
    base, growth = _PLAIN[plain].train, max(1, round(epochs * EMBEDDING_GROWTH / EMBEDDING_EPOCHS))
    gamma = carried_maximum(epochs=growth, images=images, slowest=rate, width=32, batch_size=base.batch_size)
    train = embedding_schedule(epochs=epochs, gamma_maximum=gamma, batch_size=base.batch_size)
    train = replace(train, precision=base.precision, accuracy_every=base.accuracy_every)
    summary = (
        f"embeddings of 32, 64 and 128 nodes and losses of metric learning, by the schedules of the 2025 "
        f"release scaled to {epochs} epochs, learning rate {rate:g}"
    )
    return _sibling(plain, "embedding", summary, train=train, learning_rates=(rate,), **changes)


def _gammas(plain: str, *, rate: float, **changes: Any) -> Profile:
    """Return a profile's sweep of gamma's last value, by the profile's schedule and at one learning rate."""
    summary = f"a linear layer of 8 nodes with gamma up to 1e-2, 1e-1 ... 1e3, learning rate {rate:g}"
    return _sibling(plain, "gammas", summary, learning_rates=(rate,), **changes)


def _attacked(plain: str, **changes: Any) -> Profile:
    """Return the profile of the attacked architectures, at the frozen learning rates."""
    frozen = {name: FASHION_FROZEN[name] for name in ATTACKED}
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(frozen.values()))
    summary = f"{', '.join(ATTACKED)} at the learning rate of profile fashion ({rates}), for attacks"
    return _sibling(plain, "attacked", summary, frozen=frozen, **changes)


def _paper_embedding(plain: str) -> Profile:
    """Return the 2025 release's protocol on a data set.

    Widths, number of epochs, gamma, learning rate decay and weight decay are the release's. It does not
    state its backbone, learning rates, augmentation and validation images: these, the seeds, and retraining
    the selected rate on all images are as in LPC Appendix C.
    """
    summary = (
        f"embeddings of 32, 64 and 128 nodes and losses of metric learning, {EMBEDDING_EPOCHS} epochs by the "
        "schedules of the 2025 release"
    )
    return _sibling(plain, "embedding", summary, train=EMBEDDING_TRAIN)


PROFILES: Mapping[str, Profile] = {
    **_PLAIN,
    **{
        sibling.name: sibling
        for sibling in (
            _embedding("smoke", epochs=4, images=200, rate=1e-2),
            _gammas("smoke", rate=1e-2),
            _embedding("laptop", epochs=200, images=1_197, rate=1e-2),
            _gammas("laptop", rate=2e-2),
            _embedding("fashion-cpu", epochs=50, images=2_000, rate=4e-3, seeds=(0, 1, 2)),
            _gammas("fashion-cpu", rate=8e-3, seeds=(0, 1, 2)),
            _attacked("fashion-cpu", seeds=(0, 1, 2)),
            _embedding("fashion", epochs=100, images=55_000, rate=4e-3),
            _gammas("fashion", rate=8e-3),
            _paper_embedding("paper-cifar10"),
            _paper_embedding("paper-cifar100"),
        )
    },
    **APART,
}
"""All profiles: those of the ablation; their siblings, which train another table of architectures; and
profiles apart, with tables of their own."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "paper": ("paper-svhn", "paper-cifar10", "paper-cifar100"),
    "paper-embedding": ("paper-cifar10-embedding", "paper-cifar100-embedding"),
}
"""Groups of profiles that the command line takes by one name."""
PAGED = tuple(_PLAIN)
"""Profiles that pages can be made from."""
BOOKS = ("smoke", "laptop")
"""Profiles that are trained with the book, in minutes."""
LIVE = (*BOOKS, *(one for name in BOOKS for table in SIBLINGS if (one := f"{name}-{table}") in PROFILES))
"""The profiles of :data:`BOOKS` and their siblings; the results of all others are recorded."""


def sibling(name: str, table: str) -> str:
    """Return the name of the profile that trains another table of architectures beside a profile.

    Parameters
    ----------
    name
        Name of a profile of the ablation.
    table
        Name of the table, a key of :data:`SIBLINGS`.

    Raises
    ------
    ValueError
        If the table or profile is unknown, or the profile has no such sibling.
    """
    if table not in SIBLINGS:
        raise unknown_name("table of architectures", table, SIBLINGS)
    found = f"{profile(name).name}-{table}"
    if found not in PROFILES:
        having = [one for one in _PLAIN if f"{one}-{table}" in PROFILES]
        raise ValueError(f"profile {name} has no sibling {found}; those that have one: {', '.join(having)}")
    return found


def plain(name: str) -> str:
    """Return the ablation's profile whose sibling a profile is; for one that is no sibling, return itself."""
    for table in SIBLINGS:
        if name.endswith(f"-{table}") and name.removesuffix(f"-{table}") in PROFILES:
            return name.removesuffix(f"-{table}")
    return profile(name).name


def of_book(name: str) -> str:
    """Return a profile's name if pages can be made from it; a sibling or a profile apart is a ValueError."""
    if profile(name).name in APART:
        raise ValueError(
            f"pages are not made from profile {name}, whose table of architectures is its own; expected one "
            f"of {', '.join(PAGED)}"
        )
    if plain(name) != name:
        raise ValueError(
            f"pages are not made from profile {name} but from {plain(name)}, whose sibling it is"
        )
    return name


def relatives(name: str) -> tuple[str, ...]:
    """Return the ablation's profile to which a profile belongs, and all siblings of that one."""
    base = plain(name)
    return (base, *(one for table in SIBLINGS if (one := f"{base}-{table}") in PROFILES))


def profile(name: str) -> Profile:
    """Return a profile by name; an unknown name is a ValueError that suggests the nearest ones."""
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
        Name of a profile or group, a key of :data:`PROFILES` or :data:`GROUPS`.
    dataset
        Data set whose profile is wanted, in any spelling (``CIFAR-10``, ``cifar10``); None: all profiles.

    Raises
    ------
    ValueError
        If the name is neither a profile nor a group, or none of its profiles trains on the data set.
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
        Profile of the runs.
    seeds
        Number of seeds, from the profile's first; None: all of them.
    only
        Architectures to keep; None: all of them. The order is the profile's.
    """
    for name in only or ():
        if name not in chosen.architectures:
            known = any(name in one.variants for one in PROFILES.values())
            kind = f"architecture of profile {chosen.name}" if known else "architecture"
            raise unknown_name(kind, name, chosen.architectures)
    if seeds is not None and not (type(seeds) is int and 1 <= seeds <= len(chosen.seeds)):
        raise ValueError(f"seeds is {seeds!r}; profile {chosen.name} has 1 to {len(chosen.seeds)}")
    return list(_runs(chosen, seeds, None if only is None else tuple(only)))


@lru_cache(maxsize=100)
def _runs(chosen: Profile, seeds: int | None, only: tuple[str, ...] | None) -> tuple[RunSpec, ...]:
    """Return the runs of :func:`specs`, cached: commands and pages ask for hundreds of them many times."""
    first, *others = chosen.seeds[:seeds]
    runs = []
    for architecture in (name for name in chosen.architectures if only is None or name in only):
        for rate in chosen.rates(architecture):
            run = variant_spec(
                architecture,
                data=chosen.data,
                backbone=chosen.backbone,
                backbone_width=chosen.backbone_width,
                train=replace(chosen.train, learning_rate=rate),
                seed=first,
                variants=chosen.variants,
            )
            runs += [run, *(replace(run, seed=seed) for seed in others)]
    if chosen.seeds_first:
        runs.sort(key=lambda run: chosen.seeds.index(run.seed))
    return tuple(runs)
