"""Lists the addresses outside the book to which its pages link; none is ever fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

FILE = "links.txt"
"""Name of the list, which lies beside the folder of the pages."""
_UNREAD = re.compile(r"<!--.*?-->|(<(script|style)\b[^>]*>).*?</\2\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"""<[a-zA-Z](?:[^"'<>]|"[^"]*"|'[^']*')*>""")


class _Addresses(HTMLParser):
    """Collects the external addresses that a page links to or loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an address that has a host; if the page loads it, note the tag."""
        for name, value in attrs:
            if name in ("href", "src") and value and value.startswith(("http://", "https://", "//")):
                self.found[value if tag == "a" else f"{value} ({tag})"] = None


def addresses(html: str) -> list[str]:
    """Return the external addresses of a page, in its order; what it loads has its tag in brackets.

    Only tags that hold two slashes are parsed: of a page, that is a small part.
    """
    reader = _Addresses()
    for tag in _TAG.findall(_UNREAD.sub(r"\1", html)):
        if "//" in tag:
            reader.feed(tag)
            reader.reset()  # what follows a script's tag here is not the script
    return list(reader.found)


def listed(pages: Path) -> str:
    """Return every external address in a folder of pages, one per line, with the pages that name it.

    Parameters
    ----------
    pages
        Folder with the built pages, ``*.html``.

    Returns
    -------
    str
        Sorted lines: address, tab, and the pages' names separated by commas. If a page does not link to the
        address but loads it (an image, script or style), the tag follows in brackets.
    """
    where: dict[str, list[str]] = {}
    for page in sorted(pages.glob("*.html")):
        for address in addresses(page.read_text()):
            where.setdefault(address, []).append(page.stem)
    return "".join(f"{address}\t{', '.join(names)}\n" for address, names in sorted(where.items()))
