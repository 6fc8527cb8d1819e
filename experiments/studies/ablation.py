"""The LPC ablation: architectures x learning rates x seeds, one rate selected by validation accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.studies.profiles import PROFILES, Profile, profile, resolve, specs
from experiments.studies.study import Kind
from lpc.specs import RunSpec


def declared(name: str, *, seeds: int | None = None, only: Sequence[str] | None = None) -> list[RunSpec]:
    """Return the runs that a profile declares.

    Parameters
    ----------
    name
        Name of the profile.
    seeds
        Number of seeds; None: the profile's own.
    only
        Architectures; None: all.
    """
    return specs(profile(name), seeds=seeds, only=None if only is None else tuple(only))


ABLATION: Kind[Profile] = Kind(
    name="ablation",
    profiles=PROFILES,
    resolve=resolve,
    declared=declared,
    selects=True,
    recorded_with="trace_ratio",
)
existing = ABLATION.existing
study = ABLATION.study
