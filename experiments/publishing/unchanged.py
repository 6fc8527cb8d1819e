"""Whether a book is as it was left: nothing that it is made from, and nothing that was made, has changed.

As in git's index, a file counts as unchanged while its size, times and inode are: none is read, and no
library is loaded, so that it takes a second to say that a book is up to date. What has changed is for
:mod:`experiments.publishing.executing.staleness` to find out, which reads.
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
"""In a book's output folder: the state of everything when it was last built."""

BESIDE = "laptop"
"""The profile from which chapters are made that a book's own has no runs for, unless another is named."""


class Book(NamedTuple):
    """Identity of a book.

    Attributes
    ----------
    profile, beside, seeds, store
        The arguments of :func:`experiments.publishing.plan.make`.
    places
        Locations of its parts.
    """

    profile: str
    beside: str
    seeds: int | None
    store: str
    places: Places = PLACES

    @property
    def first_page(self) -> Path:
        """The first of its pages."""
        return self.places.output / "html" / "index.html"

    def sources(self) -> str:
        """Return a SHA-256 of the state of what people write and install: code, pages, versions."""
        said = [self.profile, self.beside, self.seeds, self.store, sys.version, _installed()]
        own = (self.places.sources, self.places.toc, self.places.config)
        return _digest(ROOT / "lpc", ROOT / "experiments", *own, said=said)

    def runs(self) -> str:
        """Return a SHA-256 of the state of the run store."""
        return _digest(ROOT / self.store / "runs")

    def outputs(self) -> str:
        """Return a SHA-256 of the state of what is made: notebooks and pages."""
        return _digest(self.places.notebooks, self.places.output / "html")

    def remember(self, sources: str, runs: str) -> None:
        """Note that the book is built.

        Parameters
        ----------
        sources
            The result of :meth:`sources` before any of them was read; if they have changed since, nothing is
            noted.
        runs
            The result of :meth:`runs` from which everything was made and is current.
        """
        if self.sources() == sources:
            state = {"sources": sources, "runs": runs, "outputs": self.outputs()}
            write_json(self.places.output / FILE, state)

    def is_unchanged(self) -> bool:
        """Whether everything is as it was when the book was last noted as built."""
        try:
            last = json.loads((self.places.output / FILE).read_text())
        except (FileNotFoundError, ValueError):
            return False  # never built, or cut short: it is looked at in full
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
    """Yield a line for each file below a folder, or for a file: its place, size, times and inode.

    What is hidden, or compiled, does not count: it is being written, or made of what does.
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
            with suppress(FileNotFoundError):  # another program has removed it: it is not there
                yield _state(os.path.relpath(entry.path, top), entry.stat())


def _state(name: str, found: os.stat_result) -> bytes:
    return f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n".encode()
