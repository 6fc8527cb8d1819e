"""Which runs a command is about: one value, passed from the command line down to the jobs of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpc.errors import unknown_name

if TYPE_CHECKING:
    from experiments.studies.study import Declared, Kind, Study
    from lpc.specs import RunSpec

KINDS = ("ablation", "bottlenecks")
"""Names of the kinds of study."""


def kinds() -> Mapping[str, Kind[Any]]:
    """Return the kinds of study by name."""
    from experiments.studies.ablation import ABLATION
    from experiments.studies.bottlenecks import BOTTLENECKS

    return {kind.name: kind for kind in (ABLATION, BOTTLENECKS)}


def kind_of(name: str) -> Kind[Any]:
    """Return a kind of study by name; an unknown name is a ValueError that suggests the nearest ones."""
    if name not in KINDS:
        raise unknown_name("kind of study", name, KINDS)
    return kinds()[name]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Runs of some profiles, as a user selects them.

    Attributes
    ----------
    study
        Kind of study, one of :data:`KINDS`.
    profile
        Name of a profile, or of a group of profiles.
    dataset
        Data set whose profile is meant; None: all profiles of the name.
    seeds
        Number of seeds; None: the profile's own.
    only
        Architectures or, for bottlenecks, the beginnings of names; None: all.
    store
        Folder of the run store.
    """

    profile: str = "laptop"
    dataset: str | None = None
    seeds: int | None = None
    only: tuple[str, ...] | None = None
    study: str = "ablation"
    store: str | Path = "runs"

    @property
    def kind(self) -> Kind[Any]:
        """The kind of study."""
        return kind_of(self.study)

    def profiles(self) -> Sequence[Declared]:
        """Return the selected profiles.

        Raises
        ------
        ValueError
            If the profile is unknown, or none of its data sets is the one given.
        """
        return self.kind.resolve(self.profile, self.dataset)

    def declared(self) -> dict[str, list[RunSpec]]:
        """Return the runs by profile, without those that retrain a selected rate."""
        return {
            chosen.name: self.kind.declared(chosen.name, seeds=self.seeds, only=self.only)
            for chosen in self.profiles()
        }

    def data_names(self) -> list[str]:
        """Return the names of the data sets that the runs need, each once."""
        return list(dict.fromkeys(spec.data.name for specs in self.declared().values() for spec in specs))

    def of(self, profile: str) -> Study[Any]:
        """Return the runs of one selected profile as they are in the store."""
        store = Path(self.store).absolute()
        return self.kind.existing(profile, seeds=self.seeds, only=self.only, store=store)

    def options(self) -> list[str]:
        """Return the command-line options that select the same runs; defaults are left out."""
        plain = Selection()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        given["only"] = None if self.only is None else ",".join(self.only)
        changed = {name: value for name, value in given.items() if value != getattr(plain, name)}
        changed["profile"] = self.profile
        if Path(self.store).absolute() == Path(plain.store).absolute():
            changed.pop("store", None)
        return [str(word) for name, value in changed.items() for word in (f"--{name}", value)]

    def studies(self) -> list[Study[Any]]:
        """Return the runs of every profile as they are in the store."""
        return [self.of(chosen.name) for chosen in self.profiles()]
