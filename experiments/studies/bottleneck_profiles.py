"""How much is run for Kirsch et al.'s figures, by profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from lpc.errors import unknown_name
from lpc.specs import DataSpec, TrainSpec

GAMMAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Weights of the regularizers in Figures 1, 5 and 6: from 1e-4 to 10 in log space (Section 7.3)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Runs for one figure: data, network, width of the latent, length of training, number of trials."""

    data: DataSpec
    backbone: str
    backbone_width: int
    latent_width: int
    train: TrainSpec
    trials: int
    decoder_width: int = 1024


@dataclass(frozen=True, kw_only=True)
class BottleneckProfile:
    """A profile's runs for Kirsch et al.'s figures.

    Attributes
    ----------
    name, summary
        Name of the profile, and a line that the book prints about it.
    permuted, images
        Runs of Figure 3, on images with permuted pixels and on plain images.
    dropout
        Runs of Figure 4.
    surrogates, gammas
        Runs of Figures 1, 5 and 6.
    meeting
        Number of trials of latent point collapse with noise, otherwise like the profile's ablation; 0: none.
    retrain, seeds_first
        Fields that an ablation's profile has, too; here no rate is selected, and all trials are trained at
        once.
    """

    name: str
    summary: str
    permuted: Part
    images: Part
    dropout: Part
    surrogates: Part
    gammas: tuple[float, ...] = GAMMAS
    meeting: int = 0
    retrain: bool = field(default=False, init=False)
    seeds_first: bool = field(default=False, init=False)


def _adam(*, epochs: int, rate: float, every: int, **changes: Any) -> TrainSpec:
    """Return Section 7's training: Adam, with the rate times 0.8 after a plateau of more than 3 epochs."""
    train = TrainSpec(
        epochs=epochs,
        learning_rate=rate,
        weight_decay=0.0,
        plateau_factor=0.8,
        plateau_patience=3,
        record_every=every,
        accuracy_every=every,
        metrics="information",
    )
    return replace(train, **changes)


_DIGITS = DataSpec(name="digits")
_SMOKE = DataSpec(name="digits", train_limit=200)
_MNIST = DataSpec(name="mnist")
_FASHION = DataSpec(name="fashion_mnist")
_SUBSET = DataSpec(name="fashion_mnist", train_limit=2_000)
_PERMUTED = 0
"""Seed of the pixels' permutation, the same in all profiles."""


def _permuted(data: DataSpec) -> DataSpec:
    return replace(data, permutation_seed=_PERMUTED)


def _shrinking(train: TrainSpec) -> TrainSpec:
    """Return the training of Figure 4: 12 samples, and latents whose sd falls from 10 to 1e-3."""
    factor = (1e-3 / 10.0) ** (1 / (train.epochs - 1))
    return replace(train, record_every=1, samples=12, latent_sd=10.0, latent_sd_factor=factor)


BOTTLENECK_PROFILES: Mapping[str, BottleneckProfile] = {
    profile.name: profile
    for profile in (
        BottleneckProfile(
            name="smoke",
            summary="200 digits, 3 epochs: for tests, its numbers mean nothing",
            permuted=Part(
                data=_permuted(_SMOKE),
                backbone="relu_mlp",
                backbone_width=16,
                latent_width=12,
                decoder_width=16,
                train=_adam(epochs=3, rate=3e-3, every=1),
                trials=2,
            ),
            images=Part(
                data=_SMOKE,
                backbone="small_cnn",
                backbone_width=4,
                latent_width=12,
                decoder_width=16,
                train=_adam(epochs=3, rate=3e-3, every=1),
                trials=2,
            ),
            dropout=Part(
                data=_SMOKE,
                backbone="dropout_cnn",
                backbone_width=4,
                latent_width=6,
                train=_shrinking(_adam(epochs=4, rate=1e-3, every=1)),
                trials=2,
            ),
            surrogates=Part(
                data=_SMOKE,
                backbone="mlp",
                backbone_width=12,
                latent_width=6,
                train=_adam(epochs=4, rate=1e-3, every=2),
                trials=2,
            ),
            gammas=(1e-2, 1.0),
            meeting=2,
        ),
        BottleneckProfile(
            name="laptop",
            summary="scikit-learn's digits (1,437 train, 360 test images of 8 x 8 pixels), small networks",
            permuted=Part(
                data=_permuted(_DIGITS),
                backbone="relu_mlp",
                backbone_width=256,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=60, rate=3e-3, every=4),
                trials=8,
            ),
            images=Part(
                data=_DIGITS,
                backbone="small_cnn",
                backbone_width=8,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=60, rate=3e-3, every=4),
                trials=8,
            ),
            dropout=Part(
                data=_DIGITS,
                backbone="dropout_cnn",
                backbone_width=16,
                latent_width=32,
                train=_shrinking(_adam(epochs=40, rate=1e-3, every=1)),
                trials=3,
            ),
            surrogates=Part(
                data=_DIGITS,
                backbone="mlp",
                backbone_width=128,
                latent_width=16,
                train=_adam(epochs=80, rate=1e-3, every=2),
                trials=3,
            ),
            meeting=3,
        ),
        BottleneckProfile(
            name="fashion-cpu",
            summary="2,000 of Fashion-MNIST's training images, all 10,000 test images; fully connected and "
            "small convolutional networks, a ResNet-18 with an eighth of its width",
            permuted=Part(
                data=_permuted(_SUBSET),
                backbone="relu_mlp",
                backbone_width=256,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=60, rate=1e-3, every=6),
                trials=4,
            ),
            images=Part(
                data=replace(_SUBSET, size=32),
                backbone="resnet18",
                backbone_width=8,
                latent_width=100,
                decoder_width=256,
                train=_adam(epochs=40, rate=3e-3, every=4, precision="bfloat16"),
                trials=2,
            ),
            dropout=Part(
                data=_SUBSET,
                backbone="dropout_cnn",
                backbone_width=8,
                latent_width=32,
                train=_shrinking(_adam(epochs=30, rate=1e-3, every=1)),
                trials=2,
            ),
            surrogates=Part(
                data=replace(_SUBSET, size=32),
                backbone="resnet18",
                backbone_width=8,
                latent_width=16,
                train=_adam(epochs=40, rate=1e-3, every=4, precision="bfloat16"),
                trials=1,
            ),
        ),
        BottleneckProfile(
            name="fashion",
            summary="Fashion-MNIST (60,000 train, 10,000 test images), the paper's networks, fewer trials",
            permuted=Part(
                data=_permuted(_FASHION),
                backbone="relu_mlp",
                backbone_width=1024,
                latent_width=100,
                train=_adam(epochs=30, rate=1e-4, every=3),
                trials=3,
            ),
            images=Part(
                data=replace(_FASHION, size=32),
                backbone="resnet18",
                backbone_width=64,
                latent_width=100,
                train=_adam(epochs=30, rate=1e-4, every=3, precision="bfloat16"),
                trials=2,
            ),
            dropout=Part(
                data=_FASHION,
                backbone="dropout_cnn",
                backbone_width=32,
                latent_width=128,
                train=_shrinking(_adam(epochs=20, rate=1e-4, every=1)),
                trials=2,
            ),
            surrogates=Part(
                data=replace(_FASHION, size=32),
                backbone="resnet18",
                backbone_width=64,
                latent_width=100,
                train=_adam(epochs=30, rate=1e-4, every=3, precision="bfloat16"),
                trials=1,
            ),
        ),
        BottleneckProfile(
            name="paper",
            summary="MNIST and CIFAR10 as in Kirsch et al.'s Section 7, which gives neither the number of "
            "epochs (ours: 100) nor the batch size (ours: 128)",
            permuted=Part(
                data=_permuted(_MNIST),
                backbone="relu_mlp",
                backbone_width=1024,
                latent_width=100,
                train=_adam(epochs=100, rate=1e-4, every=5),
                trials=8,
            ),
            images=Part(
                data=DataSpec(name="cifar10"),
                backbone="resnet18",
                backbone_width=64,
                latent_width=100,
                train=_adam(epochs=100, rate=1e-4, every=5, precision="bfloat16"),
                trials=8,
            ),
            dropout=Part(
                data=_MNIST,
                backbone="dropout_cnn",
                backbone_width=32,
                latent_width=128,
                train=_shrinking(_adam(epochs=100, rate=1e-4, every=1)),
                trials=8,
            ),
            surrogates=Part(
                data=DataSpec(name="cifar10"),
                backbone="resnet18",
                backbone_width=64,
                latent_width=100,
                train=_adam(epochs=100, rate=1e-4, every=5, precision="bfloat16"),
                trials=1,
            ),
        ),
    )
}
"""Profiles by name; ``paper`` is one profile here, because the figures need two data sets at once."""


def bottleneck_profile(name: str) -> BottleneckProfile:
    """Return the profile of the runs by name; an unknown name raises a ValueError."""
    if name not in BOTTLENECK_PROFILES:
        raise unknown_name("profile of the bottleneck runs", name, BOTTLENECK_PROFILES)
    return BOTTLENECK_PROFILES[name]


def settings(names: Sequence[str]) -> pd.DataFrame:
    """Return the settings of each figure's runs, one column per profile.

    Parameters
    ----------
    names
        Names of profiles; the paper's is ``paper``.
    """
    figures = {
        "permuted": "Figure 3, permuted pixels",
        "images": "Figure 3, images",
        "dropout": "Figure 4",
        "surrogates": "Figures 1, 5, 6",
    }
    columns = {}
    for name in names:
        chosen = bottleneck_profile(name)
        for place, figure in figures.items():
            part: Part = getattr(chosen, place)
            data, train = part.data, part.train
            limit = "" if data.train_limit is None else f", {data.train_limit:,} images"
            said = {
                "data": f"{data.name}{limit}",
                "network": f"{part.backbone}, width {part.backbone_width}",
                "nodes or categories": str(part.latent_width),
                "samples per image": str(train.samples),
                "batch size, epochs": f"{train.batch_size}, {train.epochs}",
                "first learning rate": f"{train.learning_rate:g}",
                "trials": str(part.trials),
            }
            for what, value in said.items():
                columns.setdefault(name, {})[figure, what] = value
    return pd.DataFrame(columns)
