"""Errors that several modules raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def listed(names: Sequence[str], most: int = 40) -> str:
    """Return names with commas; of more than ``most`` the first, and how many others there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


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


class MissingExtra(ModuleNotFoundError, ValueError):
    """Something was asked for whose libraries are not installed; the message names the extra to install."""


def missing_extra(what: str, libraries: Iterable[str], extra: str) -> MissingExtra:
    """Return the error of something whose libraries are not installed, with the extra that installs them.

    Parameters
    ----------
    what
        What needs them, as the sentence begins.
    libraries
        Their names.
    extra
        The extra of this package they come with.
    """
    return MissingExtra(
        f"{what} needs {', '.join(libraries)}, not installed here; it comes with the extra {extra!r}: "
        f"pip install '.[{extra}]'"
    )


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Return a ValueError that names ``name``, the nearest valid names and all of them, at most 40.

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
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed(known)}.")


def on_one_line(path: str | Path, what: str) -> Path:
    """Return a path that has no control characters, such as line breaks: messages and scripts rely on that.

    Parameters
    ----------
    path
        The path.
    what
        What it is, as the message begins.

    Raises
    ------
    ValueError
        It has such characters.
    """
    if any(character < " " or character in "\x7f\x85\u2028\u2029" for character in str(path)):
        raise ValueError(f"{what} is {str(path)!r}; expected a path without control characters")
    return Path(path)


class Undefined(ValueError):
    """What is asked for does not exist for these points: they are valid, but too few or too much alike."""


class MissingGPU(RuntimeError, ValueError):
    """A GPU was asked for that torch does not find; the message names the driver and the wheel's CUDA."""
