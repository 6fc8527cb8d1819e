"""Reading of files that may be damaged: an unusable file is one error, with its path and the cure."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpc.store.atomic import GONE

if TYPE_CHECKING:
    import pandas

Fields = Mapping[str, "type | tuple[type, ...]"]
"""Required names in an object, and the allowed types of their values."""

_CURES = (
    (r"members\.json|state\.pt", "remove {path.parent} to train its runs from the start"),
    (r"progress\.json", "remove it: the next checkpoint writes it again"),
    (r"test\.json", "remove it to measure the run on the test images again"),
    (r".*\.probe|[a-z_]+\.csv", "remove {path.parent}/{path.stem}.probe to probe the run again"),
    (r"owner-\d+\.json", "remove it once no program trains the run"),
)


class Damaged(ValueError):
    """A file is missing, unreadable or has the wrong form; the message says what repairs it.

    Attributes
    ----------
    path, what, mend
        Parts of the message: the file, what is wrong with it, and what the user can do.
    """

    path: Path | None = None
    what: str = ""
    mend: str = ""


def cure(path: Path) -> str:
    """Return the cure for a store with a damaged file, as a sentence without its full stop."""
    found = next((words for name, words in _CURES if re.fullmatch(name, path.name)), None)
    if found is not None:
        return found.format(path=path)
    cohorts = _cohorts_of(path.parent)
    if not cohorts:
        return f"remove {path.parent} to run it again"
    return f"remove {path.parent} and {' and '.join(cohorts)} to train the runs of that cohort from the start"


def _cohorts_of(run: Path) -> list[str]:
    """Return the folders of the cohorts in which a run trains: without it they cannot continue."""
    found = []
    for members in sorted(run.parent.parent.glob("cohorts/*/members.json")):
        with suppress(OSError):
            if f'"{run.name}"'.encode() in members.read_bytes():
                found.append(str(members.parent))
    return found


def damaged(path: Path, what: str, *, mend: str | None = None) -> Damaged:
    """Return the error for a damaged file.

    Parameters
    ----------
    path
        Path of the file.
    what
        Fault of the file, as a predicate: "is not whole JSON".
    mend
        Cure for the user; None: :func:`cure`.
    """
    mend = mend or cure(path)
    error = Damaged(f"{path} {what}; {mend}")
    error.path, error.what, error.mend = path, what, mend
    return error


def parsed(path: Path, content: bytes, *, mend: str | None = None) -> Any:
    """Return the value in the content of a JSON file.

    Raises
    ------
    Damaged
        If the content is not whole JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        raise damaged(path, f"is not whole JSON ({error})", mend=mend) from error


def as_object(
    path: Path, value: object, *, fields: Fields | None = None, mend: str | None = None
) -> dict[str, Any]:
    """Return the value of a JSON file after checking that it is an object with some fields.

    Raises
    ------
    Damaged
        If it is another value, or a field is missing or has another type.
    """
    if not isinstance(value, dict):
        raise damaged(path, f"holds {_kind(value)}, expected an object", mend=mend)
    for name, types in (fields or {}).items():
        if name not in value:
            raise damaged(path, f"has no {name!r}", mend=mend)
        if not isinstance(value[name], types):
            expected = " or ".join(
                "null" if one is type(None) else one.__name__
                for one in (types if isinstance(types, tuple) else (types,))
            )
            raise damaged(path, f"has {name!r} = {_shown(value[name])}, expected {expected}", mend=mend)
    return value


def parsed_object(
    path: Path, content: bytes, *, fields: Fields | None = None, mend: str | None = None
) -> dict[str, Any]:
    """Return the object in a JSON file; parameters and errors are those of :func:`read_object`."""
    return as_object(path, parsed(path, content, mend=mend), fields=fields, mend=mend)


def read_object(path: Path, *, fields: Fields | None = None, mend: str | None = None) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Parameters
    ----------
    path
        Path of the file.
    fields
        Required fields, with the types of their values; None: any.
    mend
        Cure for the user if the file is damaged; None: :func:`cure`.

    Raises
    ------
    Damaged
        If the file does not exist, is not whole JSON, is no object, or lacks one of the fields.
    """
    found = read_object_if_there(path, fields=fields, mend=mend)
    if found is None:
        raise damaged(path, "does not exist", mend=mend)
    return found


def read_object_if_there(
    path: Path, *, fields: Fields | None = None, mend: str | None = None
) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if it is gone, since others may remove it meanwhile.

    Parameters and errors are those of :func:`read_object`.
    """
    content = bytes_if_there(path)
    return None if content is None else parsed_object(path, content, fields=fields, mend=mend)


def bytes_if_there(path: Path) -> bytes | None:
    """Return a file's content, or None if it is gone."""
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise damaged(path, "is a folder, expected a file") from error
    except OSError as error:
        if error.errno in GONE:
            return None
        raise out_of_place(error) or error from None


def out_of_place(error: OSError) -> Damaged | None:
    """Return the obstacle in a path: a file where a folder is expected, or a link that leads to itself.

    The result is None if the operating system had another reason to refuse it.
    """
    if error.errno not in (errno.ENOTDIR, errno.ELOOP) or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    for place in (*reversed(path.parents), path):
        try:
            if not stat.S_ISDIR(place.stat().st_mode):
                return damaged(place, "is a file, expected a folder", mend="move it away")
        except OSError as found:
            if found.errno != errno.ELOOP:
                return None
            return damaged(place, "is a link that leads back to itself", mend="remove it")
    return None


def read_texts(path: Path, *, mend: str | None = None) -> list[str] | None:
    """Return the texts that a JSON file lists, or None if it is gone.

    Raises
    ------
    Damaged
        If the file is not whole JSON, or not a list of texts.
    """
    content = bytes_if_there(path)
    if content is None:
        return None
    value = parsed(path, content, mend=mend)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise damaged(path, f"holds {_kind(value)}, expected a list of texts", mend=mend)
    return value


def parsed_lines(path: Path, content: bytes, *, mend: str | None = None) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line.

    Raises
    ------
    Damaged
        If a line is no whole object.
    """
    return [parsed_object(path, line, mend=mend) for line in content.splitlines()]


def read_table(path: Path, *, columns: tuple[str, ...] = (), mend: str | None = None) -> pandas.DataFrame:
    """Return a table of comma-separated values; parameters and errors are those of :func:`parsed_table`."""
    content = bytes_if_there(path)
    if content is None:
        raise damaged(path, "does not exist", mend=mend)
    return parsed_table(path, content, columns=columns, mend=mend)


def parsed_table(
    path: Path, content: bytes, *, columns: tuple[str, ...] = (), mend: str | None = None
) -> pandas.DataFrame:
    """Return the table of comma-separated values that a file holds.

    Parameters
    ----------
    path
        Path of the file.
    content
        Content of the file.
    columns
        Required columns.
    mend
        Cure for the user if the file is damaged; None: :func:`cure`.

    Raises
    ------
    Damaged
        If the content is no table, or lacks one of the columns.
    """
    import pandas

    try:
        table = pandas.read_csv(io.BytesIO(content))
    except ValueError as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        text = " ".join(str(error).split())
        raise damaged(path, f"is no whole table ({text})", mend=mend) from error
    absent = [name for name in columns if name not in table]
    if absent:
        raise damaged(path, f"has no column {', '.join(absent)}", mend=mend)
    return table


def _kind(value: object) -> str:
    kinds = ((list, "a list"), (dict, "an object"), (str, "a text"), (type(None), "null"))
    return next((words for kind, words in kinds if isinstance(value, kind)), _shown(value))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
