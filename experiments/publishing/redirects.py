"""Redirects: for each old address, a small page that leads to where its text is now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from experiments.paths import read_toml

TABLE = "redirects.toml"
"""The table of old addresses, beside the sources of the pages."""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url={address}">
<link rel="canonical" href="{address}">
<title>Moved</title>
</head>
<body><p>This page has moved to <a href="{address}">{address}</a>.</p></body>
</html>
"""


def read(sources: Path) -> Mapping[str, str]:
    """Return each old page's target, ``page`` or ``page#heading``; empty if there is no table."""
    path = sources / TABLE
    return read_toml(path) if path.exists() else {}


def write(pages: Path, moved: Mapping[str, str], *, whole: bool = True) -> None:
    """Write a page for each old address among the built pages.

    Parameters
    ----------
    pages
        Folder with the built pages.
    moved
        Targets from :func:`read`.
    whole
        Whether these are all pages; if not, old addresses whose target is not among them are skipped.

    Raises
    ------
    ValueError
        If an old address is still a page, or a target does not exist.
    """
    if not whole:
        moved = {name: place for name, place in moved.items() if (pages / f"{_page(place)}.html").exists()}
    for name, place in moved.items():
        page, heading = _page(place), place.partition("#")[2]
        there = pages / f"{page}.html"
        if (pages / f"{name}.html").exists():
            raise ValueError(f"{TABLE}, {name}: the book has a page of this name; remove the line")
        if not there.exists():
            raise ValueError(f"{TABLE}, {name} = {place!r}: the book has no page {page}")
        if heading and not re.search(f'id="?{re.escape(heading)}["\\s>]', there.read_text()):
            raise ValueError(f"{TABLE}, {name} = {place!r}: page {page} has no heading {heading}")
    for name, place in moved.items():
        address = place.replace(_page(place), f"{_page(place)}.html", 1)
        (pages / f"{name}.html").write_text(_PAGE.format(address=address))


def _page(place: str) -> str:
    return place.partition("#")[0]
