"""Reads the HTML that an executed notebook's cells show: tables as text, links, and images."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any


def cell_name(number: int, cell: Any) -> str:
    """Return how messages name a cell: by its number in the notebook and its first line of code."""
    first = next((line for line in cell.source.splitlines() if line and not line.startswith("#")), "")
    return f"cell {number}, beginning {first[:60]!r}"


class Html(HTMLParser):
    """Reads a cell's HTML: captions and rows of tables, links, and images without an alt text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.captions: list[str] = []
        self.rows: list[list[list[str]]] = []
        self.unnamed: list[str] = []
        self.links: list[str] = []
        self._text: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row, a cell or a caption; look at an image or a link."""
        told = dict(attrs)
        if tag == "a":
            self.links.append(told.get("href") or "")
        if tag in ("img", "svg", "canvas"):
            if not any(told.get(name) for name in ("alt", "aria-label", "aria-labelledby", "aria-hidden")):
                self.unnamed.append(tag)
        elif tag == "table":
            self.captions.append("")
            self.rows.append([])
        elif tag == "tr" and self.rows:
            self.rows[-1].append([])
        elif tag in ("td", "th", "caption"):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        """End a cell or a caption."""
        if self._text is None or tag not in ("td", "th", "caption") or not self.rows:
            return
        text = " ".join("".join(self._text).split())
        self._text = None
        if tag == "caption":
            self.captions[-1] = text
        elif self.rows[-1]:
            self.rows[-1][-1].append(text)

    def handle_data(self, data: str) -> None:
        """Add to a cell's or a caption's text."""
        if self._text is not None:
            self._text.append(data)


def html_of(notebook: Any) -> Iterator[tuple[str, Html]]:
    """Yield the HTML that a notebook's cells show, each with its cell's name."""
    for number, cell in enumerate(notebook.cells):
        for out in cell.get("outputs", []):
            if html := out.get("data", {}).get("text/html"):
                yield cell_name(number, cell), Html(html)
