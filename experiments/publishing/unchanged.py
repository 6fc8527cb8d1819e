"""Tells within a second whether a book is up to date: neither its inputs nor its outputs have changed.

As in git's index, a file counts as unchanged while its size, times and inode stay the same. No file is read,
and no library is loaded. If something did change, :mod:`experiments.publishing.executing.staleness` finds out
what it is by reading the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from experiments.paths import ROOT
from experiments.publishing.places import PLACES, Places
from lpc.store.atomic import write_json

FILE = "unchanged.json"
"""The file in a book's output folder with the state of everything when the book was last built."""

BESIDE = "laptop"
"""Default profile for chapters for which a book's own profile has no runs."""


class Book(NamedTuple):
    """What identifies a book.

    Attributes
    ----------
    profile, beside, seeds, store
        Arguments of :func:`experiments.publishing.plan.make`.
    places
        Where its parts are.
    """

    profile: str
    beside: str
    seeds: int | None
    store: str
    places: Places = PLACES

    @property
    def first_page(self) -> Path:
        """Path of its first page."""
        return self.places.output / "html" / "index.html"

    def sources(self) -> str:
        """Return a SHA-256 of the state of the inputs: code, sources of pages, versions of libraries."""
        said = [self.profile, self.beside, self.seeds, self.store, sys.version, _installed()]
        own = (self.places.sources, self.places.toc, self.places.config)
        return _digest(ROOT / "lpc", ROOT / "experiments", *own, said=said)

    def runs(self) -> str:
        """Return a SHA-256 of the state of the run store."""
        return _digest(ROOT / self.store / "runs")

    def outputs(self) -> str:
        """Return a SHA-256 of the state of the outputs: notebooks and pages."""
        return _digest(self.places.notebooks, self.places.output / "html")

    def remember(self, sources: str, runs: str) -> None:
        """Note that the book has been built.

        Parameters
        ----------
        sources
            The result of :meth:`sources` before any input was read; if inputs have changed since, nothing is
            noted.
        runs
            The result of :meth:`runs` when the book was made.
        """
        if self.sources() == sources:
            state = {"sources": sources, "runs": runs, "outputs": self.outputs()}
            write_json(self.places.output / FILE, state)

    def is_unchanged(self) -> bool:
        """Return whether nothing has changed since the book was last noted as built."""
        try:
            last = json.loads((self.places.output / FILE).read_text())
        except (FileNotFoundError, ValueError):
            return False  # never built, or interrupted: it must be checked in full
        now = {"sources": self.sources(), "runs": self.runs(), "outputs": self.outputs()}
        return self.first_page.exists() and last == now


def _digest(*places: Path, said: object = None) -> str:
    digest = hashlib.sha256(json.dumps(said).encode())
    for top in places:
        for line in _states(top):
            digest.update(line)
    return digest.hexdigest()


def _installed() -> list[str]:
    """Return the installed packages with their versions, as their folders are named."""
    folders = [Path(folder) for folder in sys.path if folder and Path(folder).is_dir()]
    return sorted({path.name for folder in folders for path in folder.glob("*.dist-info")})


def _states(top: Path) -> Iterator[bytes]:
    """Yield a line for each file below a folder, or for a single file: its path, size, times and inode.

    Hidden and compiled files do not count: they are still being written, or made from files that count.
    """
    if not top.is_dir():
        if top.exists():
            yield _state(top.name, top.stat())
        return
    todo = [top]
    while todo:
        entries: list[os.DirEntry[str]] = []
        with suppress(FileNotFoundError), os.scandir(todo.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name == "__pycache__" or entry.name.startswith("."):
                continue
            if entry.is_dir():
                todo.append(Path(entry.path))
                continue
            with suppress(FileNotFoundError):  # another program has just removed it
                yield _state(os.path.relpath(entry.path, top), entry.stat())


def _state(name: str, found: os.stat_result) -> bytes:
    return f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n".encode()
