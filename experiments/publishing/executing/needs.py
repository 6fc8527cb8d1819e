"""What chapters need before execution: runs of studies and of sibling profiles, and probes of these runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.publishing.stages import Clock
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import LIVE, PROFILES, SIBLINGS, of_book
from experiments.studies.selection import kind_of
from lpc.specs import run_key

if TYPE_CHECKING:  # the processes that execute chapters do not need torch
    from lpc.specs import RunSpec

PROBED = ("ablation", *SIBLINGS)
"""Runs that can be probed: those behind the LPC paper's tables, and those of sibling profiles."""
NEEDS = (*PROBED, "bottlenecks", "stress")
"""Needs that a chapter's header may name: runs that can be probed, Kirsch et al.'s runs, and probes."""


class Asked(NamedTuple):
    """Runs that a chapter needs.

    Attributes
    ----------
    study
        Study of the runs, ``"ablation"`` or ``"bottlenecks"``; a sibling profile belongs to the first.
    profile, seeds
        Profile of the runs, which may be a sibling, and number of seeds.
    probed
        Whether the chapter reads probes of the selected runs.
    made
        Whether missing runs are trained and probed for it; if not, it shows those that exist.
    """

    study: str
    profile: str
    seeds: int | None
    probed: bool = False
    made: bool = True

    @property
    def specs(self) -> list[RunSpec]:
        """The runs, without those that retrain a selected rate."""
        return kind_of(self.study).declared(self.profile, seeds=self.seeds)

    def missing(self, store: Path) -> int:
        """Return the number of runs that have not ended in a store."""
        from lpc.store import RunStore

        there = RunStore(store)
        return sum(not there.finished(spec) for spec in self.specs)


def valid(needs: object) -> bool:
    """Return whether a header's ``needs`` is a list from :data:`NEEDS`; ``stress`` needs runs to probe."""
    if not isinstance(needs, list) or any(one not in NEEDS for one in needs):
        return False
    return "stress" not in needs or any(one in PROBED for one in needs)


def asked(needs: Sequence[str], values: Mapping[str, Any]) -> list[Asked]:
    """Return the runs that a chapter will need.

    If a profile declares no bottleneck runs, or has no such sibling, none are trained; a chapter about them
    reports that itself. A chapter with a parameter ``beside`` also needs that profile's runs, unless its own
    profile is trained with the book. If it is not, its siblings and probes are shown only if they exist.

    Parameters
    ----------
    needs
        Needs in its header, from :data:`NEEDS`.
    values
        Parameters of the chapter; without profile, seeds or store, the chapter needs nothing.

    Raises
    ------
    ValueError
        If the profile is a sibling: chapters take the profile to which it belongs.
    """
    if not {"profile", "seeds", "store"} <= set(values):
        return []
    own = str(values["profile"])
    wanted = [(of_book(own) if own in PROFILES else own, values["seeds"])]
    if "beside" in values and own not in LIVE:
        wanted.append((str(values["beside"]), None))
    found = []
    for kind in needs:
        for profile, seeds in wanted:
            free = profile in LIVE or "beside" not in values
            if kind == "bottlenecks" and profile in BOTTLENECK_PROFILES:
                found.append(Asked(kind, profile, seeds))
            elif kind == "ablation":
                found.append(Asked(kind, profile, seeds, "stress" in needs and free))
            elif kind in SIBLINGS and f"{profile}-{kind}" in PROFILES:
                found.append(Asked("ablation", f"{profile}-{kind}", seeds, "stress" in needs, free))
    return found


def train(
    chapters: Iterable[tuple[Sequence[str], Mapping[str, Any]]], *, root: Path, clock: Clock | None = None
) -> None:
    """Train, then probe, the chapters' missing runs once, before their kernels do.

    Parameters
    ----------
    chapters
        Needs and parameters of each chapter.
    root
        Folder in which a relative path of the run store lies.
    clock
        Clock that measures the time of training and probing.
    """
    from experiments.studies import ablation, probing

    clock = clock or Clock()
    found = [(root / str(values["store"]), one) for needs, values in chapters for one in asked(needs, values)]
    made = [(store, one) for store, one in found if one.made]
    for store, one in dict.fromkeys((store, one._replace(probed=False)) for store, one in made):
        if missing := one.missing(store):
            print(f"profile {one.profile}: training {missing} runs of the {one.study}", file=sys.stderr)
        with clock.stage(f"training {one.profile}, {one.study}", f"{missing} runs"):
            kind_of(one.study).study(one.profile, seeds=one.seeds, store=store)
    studies, left = [], set()
    for store, one in dict.fromkeys((store, one) for store, one in made if one.probed):
        studies.append(ablation.existing(one.profile, seeds=one.seeds, store=store))
        if lacking := probing.missing(studies[-1]):
            print(f"profile {one.profile}: taking {len(lacking)} probes", file=sys.stderr)
        left.update((store, *probe) for probe in lacking)
    if studies:
        profiles = ", ".join(dict.fromkeys(study.profile.name for study in studies))
        with clock.stage(f"probing {profiles}", f"{len(left)} probes"):
            probing.measure_each(studies)


def files(needs: Sequence[str], values: Mapping[str, Any], *, root: Path) -> Iterator[Path]:
    """Yield the files of the runs that a chapter reads: results and, if it reads them, probes."""
    for one in asked(needs, values):
        for key in _keys(one):
            folder = root / str(values["store"]) / "runs" / key
            for suffix in ("json", "probe") if "stress" in needs else ("json",):
                yield from sorted(folder.glob(f"*.{suffix}"))


_KNOWN: dict[Asked, tuple[object, list[str]]] = {}
"""Cache of the run keys that chapters need, by the declaring profile: many chapters need the same runs."""


def _keys(one: Asked) -> list[str]:
    profiles = BOTTLENECK_PROFILES if one.study == "bottlenecks" else PROFILES
    declared = profiles.get(one.profile)
    if declared is None or one not in _KNOWN or _KNOWN[one][0] is not declared:
        _KNOWN[one] = declared, [run_key(spec) for spec in one.specs]
    return _KNOWN[one][1]
