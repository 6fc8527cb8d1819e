"""Refuses to build the pages from the project's root, where Sphinx would fail on a file that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[3]


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx continue in any folder except the project's root.

    Raises
    ------
    ExtensionError
        If the pages are read from the root; the message says which command to use.
    """
    if Path(app.srcdir).resolve() == ROOT:
        raise ExtensionError(
            "the book cannot be built from the project's root: its chapters are executed and laid out in "
            "another folder first. Type: make book (or make book PROFILE=smoke for a quick one)"
        )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
