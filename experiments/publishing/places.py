"""Where the parts of a book lie, and which pages it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jupytext
import yaml

from experiments.paths import BOOK, BUILD, CONFIG, TOC


@dataclass(frozen=True)
class Places:
    """Where the parts of a book lie.

    Attributes
    ----------
    sources
        Folder of the pages' sources.
    toc
        The table of contents.
    config
        The settings of Jupyter Book.
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
        """Return the source of a page, whether it is there or not."""
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
        return source.exists() and "kernelspec" not in jupytext.read(source, fmt="md:myst").metadata

    def chapter_names(self) -> list[str]:
        """Return the pages that are executed, in the order of the table of contents."""
        return [name for name in self.page_names() if not self.is_text(name)]


PLACES = Places()
"""Where this book's parts lie."""
