"""Locations of the parts of a book, and its list of pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.paths import BOOK, BUILD, CONFIG, TOC
from lpc.errors import unknown_name


@dataclass(frozen=True)
class Places:
    """Locations of the parts of a book.

    Attributes
    ----------
    sources
        Folder of the pages' sources.
    toc
        The table of contents.
    config
        Settings of Jupyter Book.
    output
        Folder of all products: notebooks, pages, the PDF.
    """

    sources: Path = BOOK
    toc: Path = TOC
    config: Path = CONFIG
    output: Path = BUILD

    @property
    def notebooks(self) -> Path:
        """Folder of the executed chapters."""
        return self.output / "notebooks"

    def source(self, name: str) -> Path:
        """Return the path of a page's source, whether it exists or not."""
        return self.sources / f"{name}.md"

    def page_names(self) -> list[str]:
        """Return the pages, chapters and pages of text alike, in the order of the table of contents."""
        content = yaml.safe_load(self.toc.read_text())
        groups = [content, *content.get("parts", [])]
        entries = [entry["file"] for group in groups for entry in group.get("chapters", [])]
        return [content["root"], *entries]

    def is_text(self, name: str) -> bool:
        """Whether a page is text alone: its header names no kernel, and nothing of it is executed."""
        source = self.source(name)
        return source.exists() and "kernelspec" not in _header(source)

    def chapter_names(self) -> list[str]:
        """Return the pages that are executed, in the order of the table of contents."""
        return [name for name in self.page_names() if not self.is_text(name)]

    def check_names(self, names: Iterable[str]) -> None:
        """Raise a ValueError with the nearest names for one that is no chapter."""
        known = self.chapter_names()
        for name in names:
            if name not in known:
                raise unknown_name("chapter", name, known)


def _header(source: Path) -> dict[str, Any]:
    """Return the header of a page: YAML between lines of three dashes, which come first; empty: none."""
    opening, *rest = source.read_text().split("---\n", maxsplit=2)
    found = yaml.safe_load(rest[0]) if len(rest) == 2 and not opening.strip() else None
    return found if isinstance(found, dict) else {}


PLACES = Places()
"""Locations of this book's parts."""
