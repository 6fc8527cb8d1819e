"""Finds and removes temporary folders that killed programs left while making pages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from experiments.paths import BUILD, RESULTS
from lpc.store.leftovers import FORGOTTEN, Leftover
from lpc.store.writers import folder_named

KINDS = {
    "executing": "chapter that was being executed",
    "building": "pages that were being built",
    "printing": "pages that were being printed",
    "recording": "results that were being recorded",
}
"""What temporary folders contain, by the beginnings of their names."""
_DEEP = 3
"""Largest depth of such folders below a searched one: ``build/<profile>/notebooks/.executing-...``."""


def leftovers(folders: Iterable[Path] = (BUILD, RESULTS)) -> list[Leftover]:
    """Return the temporary folders of programs that have died.

    Programs on other machines cannot be seen: their folders count once nothing in them has changed for a day.

    Parameters
    ----------
    folders
        Folders to search: by default, everything made from the pages, and the recorded results.
    """
    found = []
    for folder in folders:
        for path in sorted(one for depth in range(_DEEP) for one in folder.glob("*/" * depth + ".*-*")):
            named = folder_named(path.name) if path.is_dir() else None
            if named is None or named.name not in KINDS:
                continue
            if named.died or (named.died is None and _quiet(path) > FORGOTTEN):
                found.append(Leftover(path, f"{KINDS[named.name]} by a program that has died"))
    return found


def _quiet(folder: Path) -> float:
    """Return the seconds since the last change in a folder."""
    last = time.time()
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # it is still changing
            last = min(last, time.time() - path.lstat().st_mtime)
    return last


def sweep(folders: Iterable[Path] = (BUILD, RESULTS)) -> list[Leftover]:
    """Remove the :func:`leftovers`, and return those that were removed."""
    found = leftovers(folders)
    for one in found:
        shutil.rmtree(one.path, ignore_errors=True)
    return [one for one in found if not one.path.exists()]
