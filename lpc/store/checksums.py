"""Checksums: SHA-256 of stored files, in the file itself or in its run's result, checked when read.

An object's file begins with the digest of all that follows it, so that both change at once::

    {
     "sha256": "<64 hexadecimal digits>",
     "status": "finished", ...

A binary file that is rewritten in its life ends with the digest of all before it. Files that every program
writes identically, before the result, appear in the result with their sizes and digests, as ``files``.
Files written by versions without checksums are read unchecked, with one warning per store.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from lpc.store.reading import Damaged, as_object, damaged, parsed

_HEAD = b'{\n "sha256": "'
_TAIL = b"\nsha256 "
_DIGITS = re.compile(rb"[0-9a-f]{64}")
_said: set[Path] = set()


class Unchecked(UserWarning):
    """A store has files without checksums."""


class Part(NamedTuple):
    """Expected size in bytes, and digest, of a run's file."""

    size: int
    sha256: str


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def part(content: bytes) -> Part:
    """Return size and digest of some bytes."""
    return Part(len(content), digest(content))


def sealed_object(value: dict[str, Any]) -> bytes:
    """Return an object as the JSON of a file that begins with the digest of the rest."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    rest = (('",' if value else '"\n') + text[1:]).encode()
    return _HEAD + digest(rest).encode() + rest


def is_sealed(path: Path, content: bytes) -> bool:
    """Whether an object's file has a digest, which is then checked.

    Raises
    ------
    Damaged
        If the file has a digest that does not match its content.
    """
    place = len(_HEAD)
    begins, written = content.startswith(_HEAD), content[place : place + 64]
    if not begins and not _DIGITS.fullmatch(written):  # either is enough: a changed one must not undo a seal
        return False
    if not begins or digest(content[place + 64 :]).encode() != written:
        raise _changed(path)
    return True


def opened_object(path: Path, content: bytes) -> tuple[dict[str, Any], bool]:
    """Return the object that a file holds, without its digest, and whether it had one.

    Raises
    ------
    Damaged
        If the file is not a whole object, or its digest does not match its content.
    """
    value = as_object(path, parsed(path, content))
    sealed = is_sealed(path, content)
    if sealed:
        del value["sha256"]
    return value, sealed


def seal(content: bytes | memoryview) -> bytes:
    """Return the ending of a file with some bytes: their digest."""
    return _TAIL + digest(content).encode() + b"\n"


def opened_bytes(path: Path, content: bytes) -> tuple[memoryview, bool]:
    """Return the bytes before a file's digest, and whether it had one.

    Raises
    ------
    Damaged
        If the digest does not match the content.
    """
    length = len(_TAIL) + 64 + 1
    body, tail = memoryview(content)[:-length], content[-length:]
    ends, written = tail.startswith(_TAIL), tail[len(_TAIL) : -1]
    if not ends and not _DIGITS.fullmatch(written) and _TAIL not in tail:  # in it: it was cut short
        return memoryview(content), False
    if not ends or digest(body).encode() != written:
        raise _changed(path)
    return body, True


def parts_of(path: Path, result: dict[str, Any]) -> dict[str, Part] | None:
    """Remove and return a result's entries about the other files of its run; None if there are none."""
    files = result.pop("files", None)
    if files is None:
        return None
    try:
        return {name: Part(**values) for name, values in files.items()}
    except (AttributeError, TypeError) as error:
        raise damaged(path, "does not say what the other files of its run are") from error


def check(path: Path, content: bytes, parts: dict[str, Part] | None) -> bool:
    """Check a file against the entry in its run's result; return False if there is no entry.

    Raises
    ------
    Damaged
        If the file is another one.
    """
    if parts is None or path.name not in parts:
        return False
    if digest(content) != parts[path.name].sha256:
        raise _changed(path)
    return True


def say_unchecked(root: Path, path: Path) -> None:
    """Warn that a store has files without checksums, once for every store and process."""
    if root not in _said:
        _said.add(root)
        warnings.warn(
            f"unchecked: {path} has no checksum, as earlier versions wrote none; it and others like it in "
            f"{root} are read as they are",
            Unchecked,
            stacklevel=3,
        )


def _changed(path: Path) -> Damaged:
    return damaged(path, "is not what was written: its SHA-256 is another")
