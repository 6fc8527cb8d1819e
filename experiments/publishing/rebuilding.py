"""Builds only the pages that changed, if the result is the same as building all of them.

Sphinx remembers what it read on each page, and reads and writes only changed pages again. It does not check
again what unchanged pages refer to. So changed pages are built alone only if nothing changed that other pages
show or refer to: settings, styles, the table of contents; titles, labels, terms and equations; numbers of
figures; citations. Any such change builds all pages.
"""

from __future__ import annotations

import filecmp
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from experiments.publishing.downloads import FOLDER as DOWNLOADS

GOOD = "good"
"""The file that says which code made the kept build; it exists only while the kept build is complete."""
PAGES = (".md", ".ipynb")
_CITATIONS = re.compile(r"\{cite[:\w]*\}`[^`]*`")
_NUMBERS = re.compile(rb'<span class="?(?:caption|section)-number"?>[^<]*</span>')


class Kept(NamedTuple):
    """Files that are kept from the last build.

    Attributes
    ----------
    folder
        Folder with the staged files as Sphinx read them, and the pages that it built from them.
    """

    folder: Path

    @property
    def staged(self) -> Path:
        """Folder of the staged files."""
        return self.folder / "stage"

    @property
    def pages(self) -> Path:
        """Folder of the pages that Sphinx made from them."""
        return self.folder / "_build" / "html"

    @property
    def light(self) -> Path:
        """Figures in their light form, by what they are made of."""
        return self.folder / "light"

    def is_by(self, made_by: str) -> bool:
        """Return whether the kept build is complete and was made by the given code."""
        good = self.folder / GOOD
        return good.exists() and good.read_text() == made_by


@contextmanager
def kept(output: Path) -> Iterator[Kept | None]:
    """Lock and yield the files kept from the last build, or None if another program is using them.

    Parameters
    ----------
    output
        Output folder of the book.
    """
    lock = FileLock(output / "sphinx.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield None
        return
    try:
        yield Kept(output / "sphinx")
    finally:
        lock.release()


def pages(staged: Path, last: Kept, run: Callable[..., Path], *, made_by: str, into: Path) -> Path:
    """Build pages from staged files, only the changed ones if that is safe, and return their folder.

    Parameters
    ----------
    staged
        Folder with the staged files.
    last
        Files kept from the last build; afterwards they are those of this one.
    run
        :func:`experiments.publishing.build.run_sphinx`.
    made_by
        Fingerprint of the code that builds pages; if other code made the last build, all pages are built.
    into
        New folder for the pages.
    """
    safe = last.is_by(made_by) and only_prose_changed(last.staged, staged)
    (last.folder / GOOD).unlink(missing_ok=True)
    if safe:
        before = what_others_see(last.pages)
        take_over(staged, last.staged)
        try:
            run(last.staged, last.folder, whole=False)
            safe = what_others_see(last.pages) == before
        except RuntimeError:
            safe = False  # building all pages will report what is wrong
    if not safe:
        shutil.rmtree(last.folder, ignore_errors=True)
        shutil.copytree(staged, last.staged)
        run(last.staged, last.folder)
    (last.folder / GOOD).write_text(made_by)
    return shutil.copytree(last.pages, into)


def only_prose_changed(old: Path, new: Path) -> bool:
    """Return whether two staged folders differ only in downloads and text, not in what pages cite or show."""
    names = _files(old)
    if names != _files(new):
        return False
    changed = [name for name in names if not filecmp.cmp(old / name, new / name, shallow=False)]
    return all(
        name.startswith(f"{DOWNLOADS}/")
        or (Path(name).suffix in PAGES and _cited_and_shown(old / name) == _cited_and_shown(new / name))
        for name in changed
    )


def _cited_and_shown(page: Path) -> tuple[list[str], list[object]]:
    text = page.read_text()
    cells = json.loads(text)["cells"] if page.suffix == ".ipynb" else []
    return _CITATIONS.findall(text), [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def take_over(new: Path, old: Path) -> None:
    """Copy only those files that differ from one folder into another, so that the others keep their times."""
    for name in _files(new):
        if not filecmp.cmp(old / name, new / name, shallow=False):
            shutil.copyfile(new / name, old / name)


def what_others_see(made: Path) -> object:
    """Return what other pages may show or refer to: the inventory, and numbers of figures."""
    head, _, packed = (made / "objects.inv").read_bytes().partition(b"using zlib.\n")
    numbers = {path.name: _NUMBERS.findall(path.read_bytes()) for path in made.glob("*.html")}
    return (
        head,
        sorted(zlib.decompress(packed).splitlines()),
        {name: own for name, own in numbers.items() if own},
    )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
