"""Previews of a book while its runs are trained: a front page lists the pages that can be read already.

Previews are made if training takes long, and give way to the whole book; only that is checked and built
strictly. They never replace a whole book that exists already.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from experiments.paths import ROOT
from experiments.publishing.build import API, MADE_FROM, BuildError, promote, run_sphinx, stage
from experiments.publishing.executing.chapter_sources import settings_of
from experiments.publishing.executing.needs import asked
from experiments.publishing.executing.staleness import read_stamp
from experiments.publishing.minify import lighten
from experiments.publishing.places import Places
from experiments.studies.profiles import profile
from lpc.store.writers import folder_prefix

LONG = 1.0
"""Minutes of training from which a preview is worth the time it takes."""


def is_wanted(places: Places, minutes: float) -> bool:
    """Return whether a preview is worth making: there is no whole book yet, and training takes long.

    Parameters
    ----------
    places
        Where the book's parts are.
    minutes
        Minutes that the missing runs will take, from :func:`minutes_to_train`.
    """
    return minutes >= LONG and not (places.output / "html" / MADE_FROM).exists()


def minutes_to_train(
    assigned: Mapping[str, Mapping[str, Any]], places: Places, *, root: Path = ROOT
) -> float:
    """Return the minutes that missing runs will take, estimated from their profiles' ``minutes``.

    Parameters
    ----------
    assigned
        Parameters of every chapter, by name.
    places
        Where the chapters are.
    root
        Folder in which a relative path of the run store lies.
    """
    runs = {
        (root / str(values["store"]), one._replace(probed=False))
        for name, values in assigned.items()
        for one in asked(settings_of(name, places).needs, values)
        if one.made and one.study == "ablation"
    }
    total = 0.0
    for store, one in runs:
        every = profile(one.profile).minutes
        if every is not None:
            total += every * one.missing(store) / len(one._replace(seeds=None).specs)
    return total


def waves(assigned: Mapping[str, Mapping[str, Any]], places: Places) -> list[list[str]]:
    """Return the chapters that can be executed early: those that read no runs, then those of one study.

    Parameters
    ----------
    assigned
        Parameters of every chapter, by name.
    places
        Where the chapters are.
    """
    found: tuple[list[str], list[str]] = [], []
    first = places.page_names()[0]  # a preview has a front page of its own
    for name, values in ((name, values) for name, values in assigned.items() if name != first):
        settings = settings_of(name, places)
        runs = asked(settings.needs, values)
        waits = len(runs) > 1 or any(one.probed for one in runs)
        if not (waits or settings.alone or settings.live):
            found[len(runs)].append(name)
    return [names for names in found if names]


def show(places: Places, substitutions: Mapping[str, Any]) -> Path | None:
    """Build the pages whose chapters have been executed, with a front page, and return the front page.

    Links to pages that do not exist yet become plain text. Faults of pages are reported when the whole book
    is built; if Sphinx fails now, there is no preview, and the function returns None.

    Parameters
    ----------
    places
        Where the book's parts are.
    substitutions
        Substitutions, as for :func:`experiments.publishing.build.stage`.
    """
    names = [name for name in places.page_names() if name != API]
    first, *others = names
    there = [name for name in others if places.is_text(name) or read_stamp(name, places)]
    if not there:
        return None
    with tempfile.TemporaryDirectory(dir=places.output, prefix=folder_prefix("building")) as folder:
        made = Path(folder)
        some = replace(places, sources=made / "book", toc=made / "_toc.yml")
        shutil.copytree(places.sources, some.sources)
        waiting = [_title(places.source(name)) for name in names if name not in there]
        front = _front(_title(places.source(first)), there, waiting, substitutions)
        some.source(first).write_text(front)
        contents = {"format": "jb-book", "root": first, "chapters": [{"file": name} for name in there]}
        some.toc.write_text(yaml.safe_dump(contents, sort_keys=False))
        try:
            stage(made / "stage", substitutions, some, checked=False)
            (made / "stage" / f"{first}.md").write_text(front)  # it has no source to download
            pages = run_sphinx(made / "stage", made / "scratch", strict=False)
        except BuildError as error:
            print(f"no page is shown yet: {str(error).splitlines()[0]}", file=sys.stderr)
            return None
        lighten(pages)
        shown = promote(pages, places.output / "html", aside=made)
    print(f"{len(there)} of {len(names)} pages can be read already: {shown}", file=sys.stderr)
    return shown


def _title(source: Path) -> str:
    """Return a page's heading."""
    return next(line[2:].strip() for line in source.read_text().splitlines() if line.startswith("# "))


def _front(title: str, there: Sequence[str], waiting: Sequence[str], substitutions: Mapping[str, Any]) -> str:
    """Return the front page of a preview."""
    verdicts = Counter(claim["verdict"] for claim in substitutions.get("claims", {}).values())
    judged = "\n".join(f"- {verdict}: {count}" for verdict, count in verdicts.most_common())
    pages = "\n".join(f"- {{doc}}`{name}`" for name in there)
    return f"""# {title}

:::{{warning}}
This book is being made: {len(there)} pages can be read, {len(waiting)} are still to come, including the
content of this one. Reload it once the command has ended; the whole book then takes its place.
:::

## Ready to read

{pages}

## Claims so far

Judged by recorded runs, and by those of this book's runs that have ended:

{judged or "- none"}

## Still to come

{chr(10).join(f"- {name}" for name in waiting)}
"""
