"""Whether an executed chapter is current: made from the present code, text, data, parameters and runs."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.paths import ROOT
from experiments.publishing.executing import needs
from experiments.publishing.executing.chapter_sources import cells_of, code_of, header_of, settings_of
from experiments.publishing.executing.dependencies import files
from experiments.publishing.places import PLACES, Places

_SETTLED = 1_000_000_000
"""Nanoseconds after which a change shows in a file's times, however coarse the file system's clock is."""
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pandas")


def fingerprint(name: str, values: Mapping[str, Any], places: Places = PLACES, *, root: Path = ROOT) -> str:
    """Return a SHA-256 of everything on which a chapter's output depends.

    These are its code, header and parameters; the modules that it imports, directly or not, and their data
    (:func:`experiments.publishing.executing.dependencies.files`); versions; and the runs that it reads.

    Parameters
    ----------
    name
        Name of the chapter.
    values
        Values of all its parameters.
    places
        Where the chapter is.
    root
        Folder of the project, with the code.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(json.dumps([header_of(name, places), cells_of(name, places)], sort_keys=True).encode())
    for path in files(code_of(name, places), root=root):
        digest.update(f"{path.relative_to(root).as_posix()} {digest_of(path)}\n".encode())
    for package in PACKAGES:
        digest.update(f"{package} {metadata.version(package)}".encode())
    digest.update(sys.version.encode())
    for path in needs.files(settings_of(name, places).needs, values, root=root):
        state = path.stat()
        digest.update(f"{path.parent.name} {path.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def is_current(name: str, values: Mapping[str, Any], places: Places = PLACES) -> bool:
    """Return whether the promoted notebook has the chapter's text and was made from the present inputs."""
    stamp = read_stamp(name, places)
    if stamp is None or stamp.get("text") != digest_of(places.source(name)):
        return False
    return stamp["fingerprint"] == fingerprint(name, values, places)


def read_stamp(name: str, places: Places = PLACES) -> dict[str, Any] | None:
    """Return the record of the execution that made a promoted notebook.

    None if the notebook is damaged or its stamp is another execution's, as two may promote at once.
    """
    try:
        stamp = json.loads((places.notebooks / f"{name}.json").read_text())
        whole = "fingerprint" in stamp and stamp["notebook"] == digest_of(places.notebooks / f"{name}.ipynb")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # none yet, or damaged: execute again
    return stamp if whole else None


def digest_of(path: Path) -> str:
    """Return a file's SHA-256; a process reads it again only if its size, times or inode have changed."""
    found = path.stat()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _digest(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@lru_cache(maxsize=10_000)
def _digest(path: Path, *state: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
