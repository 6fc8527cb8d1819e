"""Errors that several modules raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Return a ValueError that names ``name``, the nearest valid names and all of them.

    Parameters
    ----------
    kind
        What is named, as the message calls it.
    name
        The name that is not known.
    known
        All valid names.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
