"""A profile: the extent of the runs for a table of architectures, and their data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lpc.errors import unknown_name
from lpc.specs import VARIANTS, DataSpec, TrainSpec, Variant


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Extent of the runs for a table of architectures, and their data.

    Attributes
    ----------
    name, summary
        Name of the profile, and a line that the book prints about it.
    data, backbone, backbone_width, train
        Settings shared by all runs; ``train`` has the schedules, and its learning rate is replaced.
    learning_rates, seeds
        Learning rates and seeds; every architecture is trained with each pair.
    variants
        Table of architectures: ``lpc.architectures.VARIANTS``, the ablation, or another one in a sibling
        profile.
    architectures
        Keys of the table; empty: all of them.
    frozen
        Learning rate of every architecture, found elsewhere and trained alone; None: all of them are trained.
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
    variants: Mapping[str, Variant] = field(default_factory=lambda: VARIANTS)
    architectures: tuple[str, ...] = ()
    frozen: Mapping[str, float] | None = None
    retrain: bool = False
    seeds_first: bool = False
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name in self.architectures:
            if name not in self.variants:
                raise unknown_name(f"architecture of profile {self.name}", name, self.variants)
        object.__setattr__(self, "architectures", self.architectures or tuple(self.variants))

    def __hash__(self) -> int:
        return hash(self.name)  # tables, which are mappings, have no hash

    def rates(self, architecture: str) -> tuple[float, ...]:
        """Return the learning rates with which an architecture is trained."""
        return self.learning_rates if self.frozen is None else (self.frozen[architecture],)
