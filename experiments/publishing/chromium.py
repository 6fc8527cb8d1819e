"""Finds Chromium, which prints the book, and opens its pages in the tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

VARIABLE = "LPC_CHROMIUM"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPLICATIONS = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)


class ChromiumError(RuntimeError):
    """There is no Chromium; the message says where we looked for it."""


def find_chromium() -> str:
    """Return the path of Chromium: the one named by ``LPC_CHROMIUM``, else the first that is found.

    Raises
    ------
    ChromiumError
        If there is none; the message says where we looked for it, and how to get one.
    """
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ChromiumError(
                f"{VARIABLE} is {named!r}, which is not a program; expected Chromium or Chrome"
            )
        return found
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    for path in APPLICATIONS:
        if path.exists():
            return str(path)
    raise ChromiumError(
        f"no Chromium to print with: searched the PATH for {', '.join(PROGRAMS)}, and looked for "
        f"{' and '.join(str(path) for path in APPLICATIONS)}. Install one (Debian: apt install chromium; "
        f"in this environment: playwright install chromium), or name its program in {VARIABLE}"
    )
