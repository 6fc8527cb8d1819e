"""Build only the pages that changed, where that gives what building all of them gives.

Sphinx remembers what it read of each page, and reads and writes those again that changed. What an unchanged
page refers to, it does not look for again. So pages are built alone only while nothing changed that others
show or refer to: settings, styles, the table of contents; titles, labels, terms and equations; numbers of
figures; citations. Everything else builds all pages.
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
"""The file among what is remembered that says by what it was built; it is there only while that is whole."""
PAGES = (".md", ".ipynb")
_CITATIONS = re.compile(r"\{cite[:\w]*\}`[^`]*`")
_NUMBERS = re.compile(rb'<span class="?(?:caption|section)-number"?>[^<]*</span>')


class Kept(NamedTuple):
    """What is remembered of the last build.

    Attributes
    ----------
    folder
        Where it lies: the staged files as Sphinx knows them, and what it built of them.
    """

    folder: Path

    @property
    def staged(self) -> Path:
        """The staged files."""
        return self.folder / "stage"

    @property
    def pages(self) -> Path:
        """The pages that Sphinx made of them."""
        return self.folder / "_build" / "html"

    @property
    def light(self) -> Path:
        """Figures in their light form, by what they are made of."""
        return self.folder / "light"

    def is_by(self, made_by: str) -> bool:
        """Whether all of it is there, and was built by this."""
        good = self.folder / GOOD
        return good.exists() and good.read_text() == made_by


@contextmanager
def kept(output: Path) -> Iterator[Kept | None]:
    """Hold what is remembered of the last build; None where another program is building these pages.

    Parameters
    ----------
    output
        The folder of what is made of the book.
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
    """Make pages from staged files, only those that changed where that is safe, and return their folder.

    Parameters
    ----------
    staged
        The files, in a folder of their own.
    last
        What is remembered of the last build; in the end, of this one.
    run
        :func:`experiments.publishing.build.run_sphinx`.
    made_by
        What builds them, in all its versions: what was built by another is built anew.
    into
        The new folder that the pages go to.
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
            safe = False  # building all pages says what is wrong
    if not safe:
        shutil.rmtree(last.folder, ignore_errors=True)
        shutil.copytree(staged, last.staged)
        run(last.staged, last.folder)
    (last.folder / GOOD).write_text(made_by)
    return shutil.copytree(last.pages, into)


def only_prose_changed(old: Path, new: Path) -> bool:
    """Whether between two staged folders only downloads and texts changed, not what pages cite or show."""
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
    """Copy those files that differ into a folder of the same files: the others keep their times."""
    for name in _files(new):
        if not filecmp.cmp(old / name, new / name, shallow=False):
            shutil.copyfile(new / name, old / name)


def what_others_see(made: Path) -> object:
    """Return what other pages show of these, or refer to: the inventory, and numbers of figures."""
    head, _, packed = (made / "objects.inv").read_bytes().partition(b"using zlib.\n")
    numbers = {path.name: _NUMBERS.findall(path.read_bytes()) for path in made.glob("*.html")}
    return (
        head,
        sorted(zlib.decompress(packed).splitlines()),
        {name: own for name, own in numbers.items() if own},
    )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
