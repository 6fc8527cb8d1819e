"""Profiles with tables of their own, trained elsewhere and recorded: optimizers, all of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments.studies.optimizer_tables import (
    CUBE_RATES,
    CUBES,
    LONG_CUBES,
)
from experiments.studies.profile_fields import Profile
from experiments.studies.schedules import scaled_schedule
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
"""The learning rate of every optimizer in the profiles ``cube`` and ``cube-long``."""


def _by_optimizer(table: Mapping[str, Variant]) -> dict[str, float]:
    return {name: FROZEN_RATES[name.split("-")[0]] for name in table}


_FULL = DataSpec(name="fashion_mnist", flip=True, crop_padding=4, noise=0.01)
_FULL_TRAIN = replace(
    scaled_schedule(epochs=12, gamma_maximum=350.0), record_every=4, accuracy_every=2, precision="float32"
)
_MILLION_TRAIN = replace(
    scaled_schedule(epochs=60, gamma_maximum=1e6, batch_size=64),
    record_every=10,
    accuracy_every=5,
)

APART: Mapping[str, Profile] = {
    one.name: one
    for one in (
        Profile(
            name="cube-rates",
            summary="IB of 8 nodes on digits by six optimizers with gamma up to 1 and to 100, 400 epochs at "
            "three learning rates, one seed that no other profile has: the search of their rates",
            data=_DIGITS,
            backbone="mlp",
            backbone_width=128,
            train=_CUBE_TRAIN,
            learning_rates=(2e-3, 1e-2, 5e-2),
            seeds=(100,),
            variants=CUBE_RATES,
        ),
        Profile(
            name="cube",
            summary="IB of 8 and of 4 nodes on digits by six optimizers with gamma up to 1 and to 100, "
            "400 epochs, five seeds",
            data=_DIGITS,
            backbone="mlp",
            backbone_width=128,
            train=_CUBE_TRAIN,
            learning_rates=(1e-2,),
            seeds=(0, 1, 2, 3, 4),
            variants=CUBES,
            frozen=_by_optimizer(CUBES),
        ),
        Profile(
            name="cube-long",
            summary="IB of 8 nodes on digits by four optimizers for 2,000 epochs, which carry 25 times the "
            "gamma of 400, five seeds",
            data=_DIGITS,
            backbone="mlp",
            backbone_width=128,
            train=_LONG_TRAIN,
            learning_rates=(1e-2,),
            seeds=(0, 1, 2, 3, 4),
            variants=LONG_CUBES,
            frozen=_by_optimizer(LONG_CUBES),
        ),
    )
}
"""By name. Pages are not made from them: they read what is recorded of them."""
