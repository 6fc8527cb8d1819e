"""A profile: how much is run for a table of architectures, and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lpc.errors import unknown_name
from lpc.specs import VARIANTS, DataSpec, TrainSpec, Variant


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How much is run for a table of architectures, and on which data.

    Attributes
    ----------
    name, summary
        Name of the profile, and a line that the book prints about it.
    data, backbone, backbone_width, train
        Settings shared by all runs; ``train`` has the schedules, and each run sets its own learning rate.
    learning_rates, seeds
        Learning rates and seeds; every architecture is trained with each pair.
    variants
        Table of architectures: the ablation's ``lpc.architectures.VARIANTS``, or another one in a sibling
        profile.
    architectures
        Names of the table's architectures that are trained; empty: all of them.
    frozen
        Learning rate of every architecture, chosen elsewhere: no other is trained. None: all of
        ``learning_rates`` are trained.
    retrain
        Whether to train the selected learning rate again on the full train set, validation images included,
        and measure that run on the test set.
    seeds_first
        Whether to train one seed of everything before the next seed.
    minutes
        Training time on two CPU cores, in minutes, as last measured; None: not measured.
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
        return hash(self.name)  # the tables are mappings, which have no hash

    def rates(self, architecture: str) -> tuple[float, ...]:
        """Return the learning rates with which an architecture is trained."""
        return self.learning_rates if self.frozen is None else (self.frozen[architecture],)
