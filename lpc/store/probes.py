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

from lpc.store.atomic import write_file, write_json
from lpc.store.reading import read_object_if_there
from lpc.store.reading import read_table as read_csv

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
        More than fits in a row, such as a row an image; None: nothing.
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
    table = directory / f"{name}.csv"
    if probe.table is None:
        table.unlink(missing_ok=True)
    else:
        content = probe.table.to_csv(index=False)
        write_file(table, lambda temporary: temporary.write_text(content))
    write_json(
        directory / f"{name}.probe",
        {"version": version, "values": probe.values, "table": probe.table is not None, **(about or {})},
    )


def read(directory: Path, name: str, *, version: int) -> dict[str, Any] | None:
    """Return everything that was written of a run's probe, or None where there is none of this version.

    Parameters
    ----------
    directory
        The run's folder.
    name, version
        Of the probe, as in :func:`save`.
    """
    found = read_object_if_there(directory / f"{name}.probe", fields=_FIELDS)
    return found if found is not None and found["version"] == version else None


def read_table(directory: Path, name: str, *, version: int) -> pandas.DataFrame | None:
    """Return the table of a run's probe, or None where there is none of this version.

    Parameters
    ----------
    directory
        The run's folder.
    name, version
        Of the probe, as in :func:`save`.
    """
    found = read(directory, name, version=version)
    if found is None or not found["table"]:
        return None
    return read_csv(directory / f"{name}.csv")


def rows(root: Path, keys: Iterable[str], versions: Mapping[str, int]) -> pandas.DataFrame:
    """Return one row a run that has a probe: ``key``, and the values of each as ``<probe>_<value>``.

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
