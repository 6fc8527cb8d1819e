"""Where the parts of a book are, and the list of its pages."""

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
    """Where the parts of a book are.

    Attributes
    ----------
    sources
        Folder of the pages' sources.
    toc
        The table of contents.
    config
        Settings of Jupyter Book.
    output
        Folder of everything that is made: notebooks, pages, the PDF.
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
        """Return the path of a page's source, which need not exist."""
        return self.sources / f"{name}.md"

    def page_names(self) -> list[str]:
        """Return all pages, executed or not, in the order of the table of contents."""
        content = yaml.safe_load(self.toc.read_text())
        groups = [content, *content.get("parts", [])]
        entries = [entry["file"] for group in groups for entry in group.get("chapters", [])]
        return [content["root"], *entries]

    def is_text(self, name: str) -> bool:
        """Return whether a page is text only: its header names no kernel, and nothing is executed."""
        source = self.source(name)
        return source.exists() and "kernelspec" not in _header(source)

    def chapter_names(self) -> list[str]:
        """Return the pages that are executed, in the order of the table of contents."""
        return [name for name in self.page_names() if not self.is_text(name)]

    def check_names(self, names: Iterable[str]) -> None:
        """Raise a ValueError if a name is not a chapter's; the message suggests the nearest ones."""
        known = self.chapter_names()
        for name in names:
            if name not in known:
                raise unknown_name("chapter", name, known)


def _header(source: Path) -> dict[str, Any]:
    """Return a page's header, the YAML between lines of three dashes at its top; empty if it has none."""
    opening, *rest = source.read_text().split("---\n", maxsplit=2)
    found = yaml.safe_load(rest[0]) if len(rest) == 2 and not opening.strip() else None
    return found if isinstance(found, dict) else {}


PLACES = Places()
"""Where the parts of this book are."""
