"""Errors that several modules raise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def listed(names: Sequence[str], most: int = 40) -> str:
    """Return names joined by commas; beyond ``most``, only the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.5) -> list[str]:
    """Return the (at most three) known names that are most similar to an unknown one, the most similar first.

    Parameters
    ----------
    name
        The unknown name.
    known
        All valid names.
    cutoff
        Least similarity from 0 to 1, as for ``difflib.get_close_matches``.
    """
    return difflib.get_close_matches(str(name), list(known), n=3, cutoff=cutoff)


class MissingExtra(ModuleNotFoundError, ValueError):
    """The libraries that a feature needs are not installed; the message names the extra to install."""


def missing_extra(what: str, libraries: Iterable[str], extra: str) -> MissingExtra:
    """Return the error for missing libraries; it names the extra that installs them.

    Parameters
    ----------
    what
        Feature that needs the libraries, as the first words of the message.
    libraries
        Names of the missing libraries.
    extra
        Extra of this package that installs them.
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
        Kind of thing that is named, for the message.
    name
        The unknown name.
    known
        All valid names.
    """
    known = list(known)
    near = nearest(name, known)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed(known)}.")


def on_one_line(path: str | Path, what: str) -> Path:
    """Return the path if it has no control characters such as line breaks, which break messages and scripts.

    Parameters
    ----------
    path
        Path to check.
    what
        Description of the path, as the first words of the message.

    Raises
    ------
    ValueError
        If the path contains control characters.
    """
    if any(character < " " or character in "\x7f\x85\u2028\u2029" for character in str(path)):
        raise ValueError(f"{what} is {str(path)!r}; expected a path without control characters")
    return Path(path)


class Undefined(ValueError):
    """The quantity does not exist for these points: they are valid, but too few or too similar."""


class MissingGPU(RuntimeError, ValueError):
    """torch does not find the GPU that was asked for; the message names the driver and the wheel's CUDA."""
