"""Probes: measurements of a finished run taken afterwards, one file per probe beside the run's own.

Layout::

    runs/<key>/<name>.probe    JSON: the probe's version, its values, why some are missing, its cost
    runs/<key>/<name>.csv      its table, where it has one; written first

A probe of another version than the requested one counts as missing.
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
    """Results of a probe of one run.

    Attributes
    ----------
    values
        Numbers, texts or truths by name, as in a row of a table; None: could not be computed. ``missing``, a
        mapping from such names to reasons, is kept but is no column.
    table
        Results too large for a row, such as one row per image; None: there are none.
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
        Directory of the run.
    name
        Name of the probe, an identifier.
    probe
        Results to save.
    version
        Version of the code that computed them.
    about
        Place and circumstances of the computation, stored beside the results.
    """
    if not name.isidentifier():
        raise ValueError(f"name is {name!r}; expected an identifier, because columns and files begin with it")
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
    """Return everything that was written for a run's probe, or None if there is none of this version.

    Parameters
    ----------
    directory
        Directory of the run.
    name
        Name of the probe.
    version
        Version of the code that computed the results.
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
    """Check a run's probe, of any version, and its table; return whether the probe has a checksum.

    Parameters
    ----------
    directory
        Directory of the run.
    name
        Name of the probe.
    deep
        Whether to read the table too; if not, only its length is checked.

    Raises
    ------
    lpc.store.reading.Damaged
        If the probe or its table is not whole.
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
    """Return the table of a run's probe, or None if there is none of this version.

    Parameters
    ----------
    directory
        Directory of the run.
    name
        Name of the probe.
    version
        Version of the code that computed the results.
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

    The probe's version is among them, as ``<probe>_version``.

    Parameters
    ----------
    root
        Directory of the store.
    keys
        Keys of the runs.
    versions
        Versions of the probes to read, by name.
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
