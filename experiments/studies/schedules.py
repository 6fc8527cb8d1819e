"""Schedules of the paper and of the 2025 release, at full length and scaled to a profile's budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lpc.equilibrium import carried_gamma, reachable_separation
from lpc.specs import TrainSpec

PAPER_EPOCHS = 800
PAPER_RATES = tuple(1e-4 * 2**step for step in range(5))
"""Learning rates of LPC Appendix C."""

_PAPER_TRAIN = TrainSpec(
    epochs=PAPER_EPOCHS,
    batch_size=128,  # the release's; the paper gives none
    learning_rate=PAPER_RATES[0],
    weight_decay=0.5e-4,
    decay_start=250,
    decay_every=50,
    record_every=50,
    accuracy_every=5,  # ours, like the precision
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

EMBEDDING_EPOCHS = 1000
EMBEDDING_GROWTH = 265
"""Epochs of the 2025 release after which gamma is at its maximum."""
EMBEDDING_TRAIN = TrainSpec(
    epochs=EMBEDDING_EPOCHS,
    batch_size=128,
    learning_rate=PAPER_RATES[0],
    weight_decay=5e-4,
    decay="cosine",
    decay_start=200,
    record_every=50,  # ours, as the two below
    accuracy_every=5,
    precision="bfloat16",
    gamma_initial=1e-4,
    gamma_factor=2.0,
    gamma_every=5,
    gamma_late_factor=1.25,
    gamma_late_from=1e3,
    gamma_maximum=1e6,
)
"""The 2025 release: gamma doubles every 5 epochs from 1e-4 to 1e3, then grows by a quarter every 5 epochs to
1e6; the learning rate falls as a cosine from epoch 200 of 1000. The squared norm is summed over the nodes, as
in Eq. 3; the 2024 release averages it."""


def scaled_schedule(*, epochs: int, gamma_maximum: float, batch_size: int = 128) -> TrainSpec:
    """Return Appendix C's schedules with their 800 epochs scaled to ``epochs``.

    The learning rate is halved from epoch 250 of 800 and every 50 of 800 after; gamma starts at 1e-2 and
    reaches ``gamma_maximum`` at epoch 378 of 800, where the paper's reaches 1e6 on CIFAR; metrics are
    recorded every 50 of 800.

    Parameters
    ----------
    epochs, batch_size
        Number of epochs, and images per step.
    gamma_maximum
        Largest gamma that the budget can carry (:func:`carried_maximum`).
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


def carried_maximum(
    *, epochs: int, images: int, slowest: float, width: int = 8, batch_size: int = 128
) -> float:
    """Return the gamma at which a budget can hold a logit gap of 2 for one pair, rounded to one digit.

    The gammas of declared runs come from this law for one pair. Ten classes at once cannot be quite as far
    apart (``lpc.equilibrium.reachable_separation``), so that their gap is about 1.5. The law stays as it is,
    because another gamma would be another run.

    Parameters
    ----------
    epochs, batch_size
        Number of epochs, and images per step.
    images
        Number of training images; with epochs and batch size, it gives the number of steps.
    slowest
        Smallest learning rate of the runs, for which the law is solved.
    width
        Number of nodes of the narrowest penalised latent, for 10 classes.
    """
    steps = epochs * math.ceil(images / batch_size)
    gamma = carried_gamma(gap=2.0, classes=10, width=width, learning_rate=slowest, steps=steps)
    pair, every = (
        reachable_separation(width=width, learning_rate=slowest, steps=steps, classes=count)
        for count in (2, 10)
    )
    return float(f"{gamma * (pair / every) ** 2:.0e}")


def carried_schedule(*, epochs: int, images: int, slowest: float, batch_size: int = 128) -> TrainSpec:
    """Return Appendix C's schedules, scaled, with the gamma at which IB's 8 nodes can hold a logit gap of 2.

    Parameters
    ----------
    epochs, batch_size, images, slowest
        Arguments of :func:`carried_maximum`.
    """
    gamma = carried_maximum(epochs=epochs, images=images, slowest=slowest, batch_size=batch_size)
    return scaled_schedule(epochs=epochs, gamma_maximum=gamma, batch_size=batch_size)


def embedding_schedule(*, epochs: int, gamma_maximum: float, batch_size: int = 128) -> TrainSpec:
    """Return the 2025 release's schedules with their 1000 epochs scaled to ``epochs``.

    After the same share of training, the learning rate is the same, and the logarithm of gamma has covered
    the same share of its way from 1e-4 to the maximum: it grows fast over seven tenths of that way, then
    slowly, and stops after :data:`EMBEDDING_GROWTH` of 1000 epochs. The weight decay is the release's. The
    quick metrics are recorded every 50 of 1000 epochs.

    Parameters
    ----------
    epochs, batch_size
        Number of epochs, and images per step.
    gamma_maximum
        Largest gamma that the budget can carry (:func:`carried_maximum`).
    """
    full, scale = EMBEDDING_TRAIN, epochs / EMBEDDING_EPOCHS
    assert (
        full.decay_start is not None
        and full.gamma_late_factor is not None
        and full.gamma_late_from is not None
    )
    way = math.log(gamma_maximum / full.gamma_initial) / math.log(full.gamma_maximum / full.gamma_initial)
    every = max(1, round(full.gamma_every * scale))
    power = way * every / (full.gamma_every * scale)
    return replace(
        full,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1.0,  # replaced by each run's own
        decay_start=round(full.decay_start * scale),
        record_every=max(1, round(full.record_every * scale)),
        accuracy_every=1,
        precision="float32",
        metrics="geometry",
        gamma_factor=full.gamma_factor**power,
        gamma_every=every,
        gamma_late_factor=full.gamma_late_factor**power,
        gamma_late_from=full.gamma_initial * (full.gamma_late_from / full.gamma_initial) ** way,
        gamma_maximum=gamma_maximum,
    )


FASHION_FULL = replace(
    scaled_schedule(epochs=12, gamma_maximum=350.0),
    record_every=6,
    accuracy_every=4,
    precision="bfloat16",
)
"""Schedule for all of Fashion-MNIST, where an epoch takes a minute on one core. At the bound on the
separation of ten classes, the last gamma leaves a logit gap of 4, or 132 standard deviations of the biases
(``lpc.equilibrium.readout_margin``)."""
