"""Errors that several modules raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.5) -> list[str]:
    """Return the known names that are nearest to another one, at most three, the nearest first.

    Parameters
    ----------
    name
        The name that is not known.
    known
        All valid names.
    cutoff
        How alike they must be, from 0 to 1 (``difflib.get_close_matches``).
    """
    return difflib.get_close_matches(str(name), list(known), n=3, cutoff=cutoff)


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
    near = nearest(name, known)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
