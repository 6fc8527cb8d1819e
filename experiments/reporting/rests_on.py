"""The data behind a verdict: images, network and seeds of the profile that judged the claim."""

from __future__ import annotations

from typing import Any

from experiments.reporting.declarations import NO_RUN
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES, Part
from experiments.studies.image_shapes import SHAPES
from experiments.studies.profiles import PROFILES
from lpc.specs import DataSpec

_NETWORKS = {"mlp": "MLP", "relu_mlp": "MLP", "small_cnn": "small CNN", "dropout_cnn": "CNN with dropout"}
_FULL = 64  # channels of a ResNet's first stage, as published


def data_of(dataset: str, profile: str, n: int) -> str:
    """Return the data behind a claim's verdict as text: data set, network and number of seeds.

    Parameters
    ----------
    dataset
        Data set of the claim.
    profile
        Profile whose runs judge it; :data:`~experiments.reporting.declarations.NO_RUN`: it needs no runs.
    n
        Number of seeds; 0: none have been run.
    """
    if profile == NO_RUN:
        return f"{dataset}, as printed"
    network = _same({_network(one) for one in _given(profile)})
    seeds = f"{n} seed{'s' * (n > 1)}" if n else ""
    return ", ".join(part for part in (dataset, network, seeds) if part)


def images_and_network(profile: str) -> str:
    """Return a profile's number of images and its network as text; one that varies is left out."""
    if profile == NO_RUN:
        return ""
    given = _given(profile)
    parts = (_same({_images(one.data) for one in given}), _same({_network(one) for one in given}))
    return ", ".join(part for part in parts if part)


def _given(profile: str) -> list[Any]:
    """Return a profile's settings with data and network: itself, or its parts for Kirsch et al.'s figures."""
    if profile in PROFILES:
        return [PROFILES[profile]]
    return [part for part in vars(BOTTLENECK_PROFILES[profile]).values() if isinstance(part, Part)]


def _same(words: set[str]) -> str:
    return words.pop() if len(words) == 1 else ""


def _network(one: Any) -> str:
    if one.backbone in _NETWORKS:
        return _NETWORKS[one.backbone]
    return f"{'small ' * (one.backbone_width < _FULL)}{one.backbone.replace('resnet', 'ResNet-')}"


def _images(data: DataSpec) -> str:
    shape = SHAPES[data.name]
    if data.train_limit is None:
        return f"{shape.train + shape.test:,} images"
    return f"{data.train_limit:,} of {shape.train:,} images"
