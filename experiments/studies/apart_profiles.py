"""Profiles with tables of their own, trained elsewhere and recorded: optimizers, penalties, more images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from experiments.studies.optimizer_tables import (
    CUBE_RATES,
    CUBES,
    EXTINCTION,
    LONG_CUBES,
    PENALTIES,
    STRENGTHS,
    Network,
)
from experiments.studies.other_profiles import OTHERS
from experiments.studies.profile_fields import Profile
from experiments.studies.schedules import FASHION_FULL, scaled_schedule
from lpc.specs import DataSpec, Variant

_DIGITS = DataSpec(name="digits", validation=240, noise=0.01)
_CUBE_TRAIN = replace(scaled_schedule(epochs=400, gamma_maximum=100.0), record_every=100)
_LONG_TRAIN = replace(scaled_schedule(epochs=2_000, gamma_maximum=25_000.0), record_every=500)

FROZEN_RATES: Mapping[str, float] = {
    "AdamW": 1e-2,
    "TurnedAdamW": 1e-2,
    "EquivariantAdam": 1e-2,
    "CoupledAdam": 1e-2,
    "SGD": 1e-2,
    "Lion": 2e-3,
}
"""The learning rate of every optimizer in ``cube`` and ``cube-long``, frozen before they ran: the one with
the best validation accuracy in ``cube-rates``, mean over both gammas. Ties go to AdamW's rate, so that
optimizers differ as little as possible."""


def _by_optimizer(table: Mapping[str, Variant]) -> dict[str, float]:
    return {name: FROZEN_RATES[Network.named(name).optimizer] for name in table}


_FULL_RATE = 8e-3
"""Frozen learning rates of these architectures in profile ``fashion``."""
_FULL = DataSpec(name="fashion_mnist", flip=True, crop_padding=4, noise=0.01)
_MILLION_TRAIN = replace(
    scaled_schedule(epochs=80, gamma_maximum=1e6, batch_size=64),
    record_every=10,
    accuracy_every=5,
    precision="bfloat16",
)
"""WideIB's 64 nodes and 80 epochs in batches of 64 carry the paper's gamma: the logit gap is then 3.4, or 92
standard deviations of the biases."""

_FIVE = (0, 1, 2, 3, 4)
_on_digits = partial(
    Profile, data=_DIGITS, backbone="mlp", backbone_width=128, learning_rates=(1e-2,), seeds=_FIVE
)
_on_fashion = partial(
    Profile, data=_FULL, backbone="resnet18", backbone_width=8, learning_rates=(_FULL_RATE,), seeds=_FIVE
)

APART: Mapping[str, Profile] = {
    one.name: one
    for one in (
        _on_digits(
            name="cube-rates",
            summary="IB of 8 nodes on digits by six optimizers with gamma up to 1 and to 100, 400 epochs at "
            "three learning rates, one seed that no other profile has: the search for their rates",
            train=_CUBE_TRAIN,
            learning_rates=(2e-3, 1e-2, 5e-2),
            seeds=(100,),
            variants=CUBE_RATES,
        ),
        _on_digits(
            name="cube",
            summary="IB of 8 and of 4 nodes on digits by six optimizers with gamma up to 1 and to 100, "
            "400 epochs, five seeds",
            train=_CUBE_TRAIN,
            variants=CUBES,
            frozen=_by_optimizer(CUBES),
        ),
        _on_digits(
            name="cube-long",
            summary="IB of 8 nodes on digits by four optimizers for 2,000 epochs, which carry 25 times the "
            "gamma of 400 epochs, five seeds",
            train=_LONG_TRAIN,
            variants=LONG_CUBES,
            frozen=_by_optimizer(LONG_CUBES),
        ),
        _on_digits(
            name="extinction",
            summary="IB of 8 nodes on digits at half and at twice the gamma of extinction, with coupled and "
            "with decoupled weight decay of three sizes, 100 epochs, five seeds",
            train=replace(
                scaled_schedule(epochs=100, gamma_maximum=100.0), decay_start=None, record_every=100
            ),
            learning_rates=(2e-3,),
            variants=EXTINCTION,
        ),
        _on_fashion(
            name="fashion-strengths",
            summary="label smoothing and centre loss at three strengths each on 4,000 of Fashion-MNIST's "
            "images, 2,000 validation images, 20 epochs, one seed that no other profile has: the search for "
            "their strengths",
            data=replace(_FULL, validation=2_000, train_limit=4_000),
            train=replace(
                FASHION_FULL, epochs=20, record_every=20, accuracy_every=20, decay_start=6, decay_every=2
            ),
            seeds=(100,),
            variants=STRENGTHS,
        ),
        _on_fashion(
            name="fashion-full",
            summary="all of Fashion-MNIST (60,000 train, 10,000 test images of 28 x 28 pixels, crops and "
            "flips), a ResNet-18 with an eighth of its width, 12 epochs, five seeds",
            train=FASHION_FULL,
            variants=PENALTIES,
            seeds_first=True,
        ),
        _on_fashion(
            name="fashion-full-million",
            summary="WideIB on all of Fashion-MNIST with the paper's gamma, up to 1e6, and a budget that "
            "carries it: 64 nodes, 80 epochs in batches of 64, one seed",
            train=_MILLION_TRAIN,
            seeds=(0,),
            variants={"WideIB": PENALTIES["WideIB"]},
        ),
        *OTHERS.values(),
    )
}
"""Profiles by name. No pages are made from them, but pages read their recorded runs."""
