"""Probes: what is measured of a finished run afterwards, one file a probe beside the run's own.

Layout::

    runs/<key>/<name>.probe    JSON: the probe's version, its values, why some are missing, what it took
    runs/<key>/<name>.csv      its table, where it has one; written first

A probe of another version than the one that is asked for is as if there were none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lpc.store.atomic import write_bytes
from lpc.store.checksums import Part, check, opened_object, part, parts_of, sealed_object
from lpc.store.reading import as_object, bytes_if_there, damaged, parsed_table
from lpc.store.wholeness import size_of

if TYPE_CHECKING:
    import pandas


_FIELDS = {"version": int, "values": dict, "table": bool}


class Probe(NamedTuple):
    """What a probe found of one run.

    Attributes
    ----------
    values
        Numbers, texts or truths by name, as in a row of a table. One that could not be computed is None.
        ``missing``, a mapping of such names to reasons, is kept and is no column.
    table
        More than fits in a row, such as one row per image; None: nothing.
    """

    values: dict[str, Any]
    table: pandas.DataFrame | None = None


def save(
    directory: Path, name: str, probe: Probe, *, version: int, about: Mapping[str, Any] | None = None
) -> None:
    """Write a run's probe: readers see all of it or nothing.

    Parameters
    ----------
    directory
        Of the run.
    name
        Of the probe, an identifier.
    probe
        What it found.
    version
        Of the code that found it.
    about
        Where and how: kept beside it.
    """
    if not name.isidentifier():
        raise ValueError(f"name is {name!r}; a probe's name is an identifier, it begins columns and files")
    if not directory.is_dir():
        raise ValueError(f"{directory} does not exist: a probe {name} is of a run that has begun")
    table, files = directory / f"{name}.csv", {}
    if probe.table is None:
        table.unlink(missing_ok=True)
    else:
        content = probe.table.to_csv(index=False).encode()
        write_bytes(table, content)
        files = {"files": {table.name: part(content)._asdict()}}
    made = {"version": version, "values": probe.values, "table": probe.table is not None}
    write_bytes(directory / f"{name}.probe", sealed_object({**made, **(about or {}), **files}))


def read(directory: Path, name: str, *, version: int) -> dict[str, Any] | None:
    """Return everything that was written of a run's probe, or None where there is none of this version.

    Parameters
    ----------
    directory
        The run's folder.
    name, version
        Of the probe, as in :func:`save`.
    """
    found = _read(directory, name, version)
    return None if found is None else found[0]


def _read(directory: Path, name: str, version: int) -> tuple[dict[str, Any], dict[str, Part] | None] | None:
    path = directory / f"{name}.probe"
    content = bytes_if_there(path)
    if content is None:
        return None
    values, _ = opened_object(path, content)
    parts = parts_of(path, values)
    as_object(path, values, fields=_FIELDS)
    return (values, parts) if values["version"] == version else None


def check_whole(directory: Path, name: str, *, deep: bool = False) -> bool:
    """Check a run's probe of whatever version, and that its table is there; return whether it has a checksum.

    Parameters
    ----------
    directory, name
        As in :func:`save`.
    deep
        Whether to read the table too, else it must only be as long as it was.

    Raises
    ------
    lpc.store.reading.Damaged
        One of the two is not whole.
    """
    path, table = directory / f"{name}.probe", directory / f"{name}.csv"
    content = bytes_if_there(path)
    if content is None:
        return True  # removed since
    values, sealed = opened_object(path, content)
    parts = parts_of(path, values)
    if as_object(path, values, fields=_FIELDS)["table"]:
        if deep:
            read_table(directory, name, version=values["version"])
        size, written = size_of(table), (parts or {}).get(table.name)
        if size is None:
            raise damaged(table, "does not exist, but the probe has a table")
        if written is not None and size != written.size:
            raise damaged(table, f"has {size} bytes, expected {written.size}")
    return sealed


def read_table(directory: Path, name: str, *, version: int) -> pandas.DataFrame | None:
    """Return the table of a run's probe, or None where there is none of this version.

    Parameters
    ----------
    directory
        The run's folder.
    name, version
        Of the probe, as in :func:`save`.
    """
    found = _read(directory, name, version)
    if found is None or not found[0]["table"]:
        return None
    path = directory / f"{name}.csv"
    content = bytes_if_there(path)
    if content is None:
        raise damaged(path, "does not exist, but the probe has a table")
    check(path, content, found[1])
    return parsed_table(path, content)


def rows(root: Path, keys: Iterable[str], versions: Mapping[str, int]) -> pandas.DataFrame:
    """Return one row per run that has a probe: ``key``, and the values of each as ``<probe>_<value>``.

    The probe's version stands among them, as ``<probe>_version``.

    Parameters
    ----------
    root
        Directory of the store.
    keys
        Of runs.
    versions
        Of the probes to read, by name.
    """
    import pandas

    found = []
    for key in keys:
        row: dict[str, Any] = {}
        for name, version in versions.items():
            probe = read(root / "runs" / key, name, version=version)
            values = {} if probe is None else {"version": version, **probe["values"]}
            row.update({f"{name}_{field}": value for field, value in values.items() if field != "missing"})
        if row:
            found.append({"key": key, **row})
    return pandas.DataFrame(found) if found else pandas.DataFrame(columns=["key"])
