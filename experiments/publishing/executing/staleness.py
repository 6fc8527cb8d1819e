"""Whether an executed chapter is current: made from this text, code, data, parameters and runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.paths import ROOT
from experiments.publishing.executing import needs
from experiments.publishing.executing.chapter_sources import code_of, settings_of
from experiments.publishing.executing.dependencies import files
from experiments.publishing.places import PLACES, Places

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pandas")


def fingerprint(name: str, values: Mapping[str, Any], places: Places = PLACES, *, root: Path = ROOT) -> str:
    """Return a SHA-256 of everything on which a chapter's output depends.

    That is its text, its parameters, the modules that it imports, directly or not, with their data
    (:func:`experiments.publishing.executing.dependencies.files`), versions, and the runs that it reads.

    Parameters
    ----------
    name
        The chapter.
    values
        All its parameters.
    places
        Where the chapter lies.
    root
        The project's folder, with the code.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(places.source(name).read_bytes())
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
    """Whether the promoted notebook was made from exactly what :func:`fingerprint` counts."""
    stamp = read_stamp(name, places)
    return stamp is not None and stamp["fingerprint"] == fingerprint(name, values, places)


def read_stamp(name: str, places: Places = PLACES) -> dict[str, Any] | None:
    """Return what was written of the execution that made a promoted notebook.

    None where there is no whole notebook with its own stamp: two executions may promote at once.
    """
    try:
        stamp = json.loads((places.notebooks / f"{name}.json").read_text())
        whole = "fingerprint" in stamp and stamp["notebook"] == digest_of(places.notebooks / f"{name}.ipynb")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # none yet, or damaged: execute again
    return stamp if whole else None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
