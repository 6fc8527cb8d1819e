"""Listing: one row per run of a store, quick for thousands of runs and on a file system across a network.

Up to three small files say what a run's row holds, and three more must be there once it has ended
(:mod:`lpc.store.wholeness`). Reading them takes several requests per run where the file
system is across a network, one waiting for the other. So many runs are looked at together, and the rows
that were read are kept in one file of the store, ``listing-<protocol>.json``. A row is taken from there
while its run's files have the sizes and modification times that they had before they were read.

That file is a copy and never needed: it may be deleted at any time. A program that finds many rows out of
date replaces it whole, through a temporary neighbour, so that readers see one that somebody wrote completely.
It begins with a checksum over itself and over the modules that judge files: a damaged one, or one of
another version, is as good as none. Files that changed within the last two seconds are not trusted to show
their next change in their time, and their rows are not kept. Where the store cannot be written, nothing is
kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lpc.store import checksums, reading, wholeness
from lpc.store.atomic import GONE, write_file
from lpc.store.reading import Damaged, damaged, out_of_place, parsed_object
from lpc.store.wholeness import PARTS, check_part, is_of, parsed_result, parsed_test

Row = dict[str, Any]
Stamp = list[list[int] | None]
"""Modification time (ns) and size (bytes) of each of a run's files; None where there is none."""

READ = ("spec.json", "result.json", "test.json")
"""Files from which a run's row is made."""
FILES = (*READ, *PARTS)
"""Files of a run that are checked."""
TOGETHER = 32
"""Number of runs that are looked up together: the network is the bottleneck, not a processor."""
SETTLED = 2.0
"""Seconds after which a change shows in a file's time; some file systems count time in steps of that."""
KEPT_FROM = 0.01
"""Share of all rows that must have been read anew before the file is rewritten, always as a whole."""

_KEY = re.compile("[0-9a-f]{64}")
_JUDGES = (__file__, wholeness.__file__, checksums.__file__, reading.__file__)
_VERSION = b"".join(Path(file).read_bytes() for file in _JUDGES)


class _Found(NamedTuple):
    """Result of reading a run's files: the row is None if the run has not begun or has another protocol."""

    key: str
    stamp: Stamp
    row: Row | None
    read: bool
    checked: bool = True
    damage: Damaged | None = None


class Listing(NamedTuple):
    """The runs of a store.

    Attributes
    ----------
    rows
        Rows as returned by :func:`rows`.
    unchecked
        Keys of runs whose results have no checksum.
    damages
        Damages of other runs, one error each.
    others
        Number of other folders: runs of another protocol, and runs that have not begun.
    """

    rows: list[Row]
    unchecked: list[str]
    damages: list[Damaged]
    others: int


def rows(root: Path, *, protocol: int) -> list[Row]:
    """Return only the rows of :func:`read`."""
    return read(root, protocol=protocol).rows


def read(root: Path, *, protocol: int) -> Listing:
    """Return the result of :func:`look` for a store in which nothing is damaged.

    Raises
    ------
    lpc.store.reading.Damaged
        If a run that has begun under this protocol, or under an unknown one, is not whole.
    """
    found = look(root, protocol=protocol)
    if found.damages:
        first, others = found.damages[0], len(found.damages) - 1
        more = f" ({others} more runs of {root} are damaged)" if others else ""
        raise Damaged(f"{first}{more}") from first
    return found


def look(root: Path, *, protocol: int) -> Listing:
    """Return one row per run that has begun under one protocol and is whole, sorted by key.

    Parameters
    ----------
    root
        Directory of the store.
    protocol
        Protocol of the runs.

    Returns
    -------
    Listing
        Rows with ``key``; the spec's fields, nested ones as ``data.name``; ``status``, which is ``training``
        without a result; the result's fields; and the test's as ``test_*``.
    """
    index = root / f"listing-{protocol}.json"
    started = time.monotonic()
    try:
        keys = sorted(path.name for path in (root / "runs").iterdir())
    except FileNotFoundError:
        return Listing([], [], [], 0)
    kept = _kept(index)
    look = partial(_look, root / "runs", protocol, kept)
    parts = [keys[first : first + TOGETHER] for first in range(0, len(keys), TOGETHER)]
    with ThreadPoolExecutor(TOGETHER) as pool:
        found = list(chain.from_iterable(pool.map(look, parts)))
    whole = [one for one in found if one.damage is None]
    if len(whole) == len(found) and sum(one.read for one in found) > KEPT_FROM * len(found):
        _keep(index, found, started)
    rows = [one.row for one in whole if one.row is not None]
    return Listing(
        rows,
        [one.key for one in whole if not one.checked],
        [one.damage for one in found if one.damage is not None],
        len(whole) - len(rows),
    )


def _look(runs: Path, protocol: int, kept: Mapping[str, _Found], keys: Sequence[str]) -> list[_Found]:
    """Return the results for some runs: kept rows if the files' times and sizes are unchanged."""
    found = []
    for key in keys:
        known = kept.get(key)
        if known is not None and known.stamp == [_stamp(f"{runs}/{key}/{name}") for name in FILES]:
            found.append(known)
        else:
            found.append(_read(runs / key, protocol))
    return found


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 making a Path would take as long as the call
    except OSError as error:
        return _none_where_gone(error)
    return [status.st_mtime_ns, status.st_size]


def _none_where_gone(error: OSError) -> None:
    if error.errno not in (*GONE, errno.ENOTDIR):
        raise error


def _read(directory: Path, protocol: int) -> _Found:
    try:
        contents = [_content(directory / name) for name in READ]
    except Damaged as damage:
        return _Found(directory.name, [], None, read=True, damage=damage)
    stamp = [None if one is None else one[0] for one in contents]
    stamp += [_stamp(f"{directory}/{name}") for name in PARTS]
    try:
        row, checked = _row(directory, [None if one is None else one[1] for one in contents], stamp, protocol)
    except Damaged as damage:
        return _Found(directory.name, stamp, None, read=True, damage=damage)
    return _Found(directory.name, stamp, row, read=True, checked=checked)


def _row(
    directory: Path, contents: Sequence[bytes | None], stamp: Stamp, protocol: int
) -> tuple[Row | None, bool]:
    """Return a run's row, and whether its results, if any, had checksums."""
    (spec, result, test), checked = contents, True
    if spec is None:
        if result is not None:
            raise damaged(directory / "spec.json", "does not exist, but the run has a result")
        return None, True
    values = parsed_object(directory / "spec.json", spec)
    if not is_of(directory / "spec.json", values, protocol):
        return None, True
    row: Row = {"key": directory.name}
    for name, value in values.items():
        nested = value.items() if isinstance(value, dict) else ()
        row.update({f"{name}.{inner}": field for inner, field in nested} or {name: value})
    row["status"] = "training"
    ended = None
    if result is not None:
        ended = parsed_result(directory / "result.json", result)
        row.update(_fields(ended.values))
        checked = ended.parts is not None
        for name, part in zip(PARTS, stamp[len(READ) :], strict=True):
            check_part(directory / name, None if part is None else part[1], ended)
    if test is not None:
        values, sealed = parsed_test(directory / "test.json", test, ended)
        row.update(_fields(values, "test_"))
        checked = checked and sealed
    return row, checked


def _fields(values: Row, prefix: str = "") -> Row:
    return {prefix + name: value for name, value in values.items() if name != "missing"}


def _content(path: Path) -> tuple[list[int], bytes] | None:
    """Return a file's content, and its time and size before it was read; None if it does not exist."""
    try:
        with path.open("rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            return [status.st_mtime_ns, status.st_size], stream.read()
    except IsADirectoryError as error:
        raise damaged(path, "is a folder, expected a file") from error
    except OSError as error:
        stray = error.errno == errno.ENOTDIR and not _KEY.fullmatch(path.parent.name)
        if not stray and (misplaced := out_of_place(error)):
            raise misplaced from error
        return _none_where_gone(error)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_VERSION + body).hexdigest().encode()


def _kept(index: Path) -> dict[str, _Found]:
    """Return the kept rows by key; none if this version did not write the file."""
    try:
        checksum, _, body = index.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if checksum != _checksum(body):
        return {}
    kept: dict[str, _Found] = {}
    for columns, runs in json.loads(body):
        for key, stamp, checked, *values in runs:
            row = None if columns is None else dict(zip(columns, values, strict=True))
            kept[key] = _Found(key, stamp, row, read=False, checked=checked)
    return kept


def _keep(index: Path, found: Sequence[_Found], started: float) -> None:
    """Write the rows of runs whose files had settled before they were read."""

    def write(temporary: Path) -> None:
        now = temporary.stat().st_mtime_ns  # by the file system's clock, which need not be this machine's
        settled = now - round((time.monotonic() - started + SETTLED) * 1e9)
        body = _body(one for one in found if _changed(one) < settled)
        temporary.write_bytes(_checksum(body) + b"\n" + body)

    with suppress(OSError):
        write_file(index, write)


def _changed(one: _Found) -> int:
    """Return when a run's files last changed (ns)."""
    return max((part[0] for part in one.stamp if part is not None), default=0)


def _body(found: Iterable[_Found]) -> bytes:
    """Return rows as JSON, those of the same columns together."""
    alike: dict[tuple[str, ...] | None, list[list[Any]]] = defaultdict(list)
    for one in found:
        columns = None if one.row is None else tuple(one.row)
        alike[columns].append([one.key, one.stamp, one.checked, *(one.row or {}).values()])
    return json.dumps(list(alike.items()), separators=(",", ":")).encode()
