"""Makes a book from existing runs: plans the profile of each chapter, then executes and builds them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.sizes import SIZES
from experiments.paths import ROOT
from experiments.publishing import preview
from experiments.publishing.build import build
from experiments.publishing.executing.chapter_sources import assign, settings_of
from experiments.publishing.executing.execution import ChapterError, execute_each, train
from experiments.publishing.executing.needs import PROBED
from experiments.publishing.executing.staleness import is_current
from experiments.publishing.places import PLACES, Places
from experiments.publishing.stages import Clock
from experiments.publishing.unchanged import BESIDE, Book
from experiments.reporting import claims
from experiments.studies import ablation, probing
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import BOOKS, GROUPS, LIVE, PROFILES, SIBLINGS, of_book
from experiments.studies.selection import kind_of
from lpc.errors import unknown_name


class ChapterPlan(NamedTuple):
    """Inputs of a chapter.

    Attributes
    ----------
    chapter
        Name of the chapter.
    profile
        Profile whose runs or sizes the chapter shows; None: it shows none.
    values
        Values of all its parameters.
    why
        Why this profile was chosen, as part of a sentence; empty: it is the one asked for.
    """

    chapter: str
    profile: str | None
    values: dict[str, Any]
    why: str


def bottleneck_profile(profile: str) -> str | None:
    """Return the profile that declares the bottleneck runs for a profile: of its name, or its group's."""
    names = [profile, *(group for group, members in GROUPS.items() if profile in members)]
    return next((name for name in names if name in BOTTLENECK_PROFILES), None)


def lacking(
    profile: str, *, study: str = "ablation", seeds: int | None = None, store: str | Path = "runs"
) -> str:
    """Return which training or measuring of a profile's runs is missing for a chapter; empty if none is.

    Parameters
    ----------
    profile
        Name of a profile of the study.
    study
        Study of the runs, ``"ablation"`` or ``"bottlenecks"``.
    seeds
        Number of seeds; None: the profile's own.
    store
        Folder of the run store; a relative one is in the project's.
    """
    kind = kind_of(study)
    if profile not in kind.profiles:
        return f"profile {profile} declares no runs of the {study}"
    found = kind.existing(profile, seeds=seeds, store=ROOT / store)
    missing = sum(not found.store.finished(spec) for spec in found.specs)
    if missing:
        return f"{missing} of {len(found.specs)} runs of profile {profile} have not ended"
    if all(found.store.result(spec)["status"] == "failed" for spec in found.specs):
        return f"all {len(found.specs)} runs of profile {profile} failed"
    if not kind.selects:
        return ""
    missing = sum(not found.store.finished(spec) for spec in found.retrainings)
    if missing:
        return (
            f"{missing} of {len(found.retrainings)} selected runs of profile {profile} have not been "
            "retrained on the full train set"
        )
    missing = sum(not found.store.measured(spec) for spec in found.tested)
    if missing or not found.tested:
        return f"{missing} of {len(found.tested)} selected runs of profile {profile} have no test metrics"
    return ""


def unprobed(profile: str, *, seeds: int | None = None, store: str | Path = "runs") -> str:
    """Return which probes of a profile's selected runs are missing for a chapter; empty if none are.

    Parameters
    ----------
    profile, seeds, store
        Arguments of :func:`lacking`.
    """
    missing = len(probing.missing(ablation.existing(profile, seeds=seeds, store=ROOT / store)))
    return f"{missing} probes of the selected runs of profile {profile} are missing" if missing else ""


def _reasons(profile: str, seeds: int | None, store: str | Path) -> dict[str, str]:
    """Return, for each possible need of a chapter, why a profile cannot satisfy it; empty if it can.

    If a profile is trained with the book, its runs, siblings and probes are made with it and never missing.
    """

    def of(name: str, study: str = "ablation") -> str:
        live = name in LIVE and name in kind_of(study).profiles
        return "" if live else lacking(name, study=study, seeds=seeds, store=store)

    bottlenecks = bottleneck_profile(profile)
    reasons = {"ablation": of(profile)}
    reasons["bottlenecks"] = (
        f"profile {profile} declares no bottleneck runs"
        if bottlenecks is None
        else of(bottlenecks, "bottlenecks")
    )
    for table in SIBLINGS:
        name = f"{profile}-{table}"
        reasons[table] = of(name) if name in PROFILES else f"profile {profile} has no sibling {name}"
    names = {kind: profile if kind == "ablation" else f"{profile}-{kind}" for kind in PROBED}
    for kind, name in names.items():
        live = profile in LIVE or reasons[kind]
        reasons[f"stress of {kind}"] = "" if live else unprobed(name, seeds=seeds, store=store)
    return reasons


def _read(needs: Sequence[str], bottlenecks: str | None, profile: str, *, ledger: bool) -> list[str]:
    """Return the needs of a chapter that decide whether it is made from a profile, as keys of the reasons.

    A chapter about both papers' runs needs bottleneck runs only if the profile declares its own. A chapter
    that shows the ``ledger`` beside another profile's runs does without missing siblings and probes.
    """
    read = [kind for kind in needs if kind == "ablation" or (kind in SIBLINGS and not ledger)]
    if "bottlenecks" in needs and ("ablation" not in needs or bottlenecks == profile):
        read.append("bottlenecks")
    if "stress" in needs and not ledger:
        read += [f"stress of {kind}" for kind in needs if kind in PROBED]
    return read


def plan(
    profile: str,
    *,
    beside: str = BESIDE,
    seeds: int | None = None,
    store: str | Path = "runs",
    places: Places = PLACES,
) -> list[ChapterPlan]:
    """Return the inputs of every chapter; nothing is trained or executed.

    A chapter is made from the profile if all runs that it reads have ended, been retrained where the profile
    asks for it, measured and probed, and if it does not itself train too much. Chapters about bottleneck runs
    read those of the profile's name, or of its group's; chapters about another table of architectures read
    the sibling's. All other chapters are made from the profile ``beside``.

    Parameters
    ----------
    profile
        Name of a profile in :data:`~experiments.studies.profiles.PROFILES`, or of bottleneck runs.
    beside
        Second profile, one of :data:`~experiments.studies.profiles.BOOKS`, with all its seeds.
    seeds
        Number of seeds of the first profile; None: all of them.
    store, places
        Folder of the run store, and where the book's parts are.

    Raises
    ------
    ValueError
        If the profile is unknown or a sibling, or no chapter can be made from it.
    """
    if profile not in PROFILES and profile not in BOTTLENECK_PROFILES:
        raise unknown_name("profile", profile, dict.fromkeys((*PROFILES, *BOTTLENECK_PROFILES)))
    if profile in PROFILES:
        of_book(profile)
    if beside not in BOOKS:
        raise unknown_name("profile for the remaining chapters, trained with the book:", beside, BOOKS)
    bottlenecks, reasons, pages = bottleneck_profile(profile), _reasons(profile, seeds, store), []
    for name, defaults in assign(places.chapter_names(), {}, places).items():
        settings = settings_of(name, places)
        needs, live = settings.needs, settings.live
        if "profile" not in defaults:
            pages.append(ChapterPlan(name, None, defaults, ""))
            continue
        if "store" not in defaults:
            own, why = profile in SIZES, f"no sizes are set for profile {profile}"
        else:
            read = _read(needs, bottlenecks, profile, ledger="beside" in defaults)
            why = next((reasons[kind] for kind in read if reasons[kind]), "")
            if not why and live and profile not in LIVE:
                why = f"it trains networks itself, and profile {profile} would make that too long"
            own = not why
        taken = (bottlenecks if needs == ("bottlenecks",) else profile) if own else beside
        given = {"profile": taken, "store": str(store), "beside": beside}
        given["seeds"] = seeds if own or profile == beside else None
        values = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
        pages.append(ChapterPlan(name, taken, values, "" if own else why))
    if profile != beside and not any(page.profile == profile and "store" in page.values for page in pages):
        kind = "ablation" if profile in PROFILES else "bottlenecks"
        raise ValueError(
            f"no chapter can be made from profile {profile} in {store}: {reasons[kind]}; train and measure "
            f"them first (python -m experiments train --study {kind} --profile {profile}), or record the "
            f"finished ones and build the book of {beside}, which shows them"
        )
    return pages


def told(pages: Sequence[ChapterPlan]) -> str:
    """Return which chapters are made from which profile, one line per profile and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for page in pages:
        if page.profile is not None:
            groups.setdefault((page.profile, page.why), []).append(page.chapter)
    return "\n".join(
        f"from profile {profile}: {', '.join(names)}" + (f" ({why})" if why else "")
        for (profile, why), names in groups.items()
    )


def substitutions(
    profile: str, *, beside: str = BESIDE, seeds: int | None = None, store: str | Path = "runs"
) -> dict[str, Any]:
    """Return the ledger's substitutions, judged by the profile's runs or, if it lacks some, by ``beside``."""
    whole = not lacking(profile, seeds=seeds, store=store)
    found = ablation.existing(
        profile if whole else beside, seeds=seeds if whole else None, store=ROOT / store
    )
    return dict(claims.substitutions(found, beside=beside))


def make(
    profile: str,
    *,
    beside: str = BESIDE,
    seeds: int | None = None,
    store: str | Path = "runs",
    force: bool = False,
    places: Places = PLACES,
) -> Path:
    """Execute every chapter with the profile that has its runs, and build the pages.

    Runs of the profile are never trained. Those of ``beside``, a matter of minutes, are trained if a chapter
    needs them. Standard error and the foot of each page name the chapter's profile.

    Parameters
    ----------
    profile, beside, seeds, store, places
        Arguments of :func:`plan`. Give each of several profiles' books an ``output`` of its own.
    force
        Whether to execute chapters whose output is current, too.

    Returns
    -------
    Path
        First page of the book.

    Raises
    ------
    ValueError
        If :func:`plan` raises one, or a verdict differs from the one that the chapters' text assumes.
    ChapterError, CheckError, BuildError
        If a chapter failed, or pages lack something or could not be built.
    """
    book = Book(profile, beside, seeds, str(store), places)
    sources = book.sources()
    pages = plan(profile, beside=beside, seeds=seeds, store=store, places=places)
    print(told(pages), file=sys.stderr)
    assigned = {page.chapter: page.values for page in pages}
    clock = Clock()
    if preview.is_wanted(places, preview.minutes_to_train(assigned, places)):
        _show_as_they_come(assigned, places, clock, profile=profile, beside=beside, seeds=seeds, store=store)
    train(assigned, places, clock=clock)
    runs = book.runs()
    with clock.stage("the ledger", ""):
        inserted = substitutions(profile, beside=beside, seeds=seeds, store=store)
    execute_each(assigned, force=force, places=places, clock=clock)
    print("building the pages", file=sys.stderr)
    with clock.stage("pages", ""):
        first = build(inserted, places, whole=True)
    with clock.stage("a last look", ""):
        then, runs = runs, book.runs()
        if runs == then or (  # chapters and other programs may have trained runs meanwhile
            plan(profile, beside=beside, seeds=seeds, store=store, places=places) == pages
            and substitutions(profile, beside=beside, seeds=seeds, store=store) == inserted
            and all(is_current(name, values, places) for name, values in assigned.items())
        ):
            book.remember(sources, runs)
    print(clock.told(places.output), file=sys.stderr)
    return first


def _show_as_they_come(
    assigned: Mapping[str, Mapping[str, Any]], places: Places, clock: Clock, **judged_by: Any
) -> None:
    """Execute the chapters that need not wait for all runs, and build the pages that can be shown already.

    If a chapter fails here, it fails again, and is reported, when all are executed.
    """
    for names in preview.waves(assigned, places):
        with suppress(ChapterError):
            execute_each({name: assigned[name] for name in names}, places=places, clock=clock)
        with clock.stage("first pages", ""):
            preview.show(places, substitutions(**judged_by))
