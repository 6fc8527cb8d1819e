"""How much work the check of a GPU does: networks, batches, points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.paths import ROOT
from experiments.studies.profiles import profile, specs
from lpc.specs import Precision, RunSpec

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Pairs of a measurement's name and its values by heading: numbers, words, yes or no, or None."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much work a check does.

    Attributes
    ----------
    networks
        Profiles whose first IB run is timed. The first profile's run is also used side by side, to compare
        bits, and for the choices.
    backbone, backbone_width, batch_size
        Settings of these runs; None: those of their profiles.
    batches
        Number of batches in a timed epoch.
    epochs
        Largest number of timed epochs, after a first one that is not timed.
    product
        Rows of the square matrices whose product is timed; None: as many as suit the device.
    points, width, k
        Number of points, their width, and the rank k of the neighbour, for the entropy.
    attacked
        Number of images for DeepFool.
    judged
        Number of images on which accuracy is computed in two precisions.
    cohort
        Number of runs in the cohort.
    trained
        Profile that is trained with one seed in the remaining time.
    compiled
        Whether to compile networks if the device can.
    store
        Store of the trained runs.
    tests
        Folder with the tests marked ``gpu``.
    """

    networks: tuple[str, ...] = ("paper-cifar10", "paper-cifar100")
    backbone: str | None = None
    backbone_width: int | None = None
    batch_size: int | None = None
    batches: int = 100
    epochs: int = 5
    product: int | None = None
    points: int = 50_000
    width: int = 512
    k: int = 100
    attacked: int = 100
    judged: int = 45_000
    cohort: int = 14
    trained: str = "fashion"
    compiled: bool = True
    store: Path = field(default_factory=lambda: ROOT / "runs")
    tests: Path = ROOT / "tests"

    def run(self, network: str, *, precision: Precision | None = None) -> RunSpec:
        """Return the timed run of a network, in its own precision or in the given one."""
        spec = specs(profile(network), only=("IB",))[0]
        model = replace(
            spec.model,
            backbone=self.backbone or spec.model.backbone,
            backbone_width=self.backbone_width or spec.model.backbone_width,
        )
        train = replace(
            spec.train,
            batch_size=self.batch_size or spec.train.batch_size,
            precision=precision or spec.train.precision,
        )
        return replace(spec, model=model, train=train)


FULL = Amount()
TINY = Amount(
    networks=("paper-cifar10",),
    backbone="small_cnn",
    backbone_width=2,
    batch_size=8,
    batches=5,
    epochs=1,
    product=64,
    points=400,
    width=12,
    k=5,
    attacked=4,
    judged=32,
    cohort=2,
    trained="smoke",
    compiled=False,
)
"""For tests."""
