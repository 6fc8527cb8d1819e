"""Small tables that were measured once and committed, each with its date, code and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.paths import MEASURED
from lpc.computing.provenance import provenance
from lpc.store.atomic import write_bytes, write_json
from lpc.store.reading import read_object, read_table


class Recorded(NamedTuple):
    """A recorded table, and its provenance."""

    table: pd.DataFrame
    about: dict[str, Any]

    @property
    def origin(self) -> str:
        """The provenance in words, for a caption."""
        commit = (self.about["commit"] or "unknown")[:7] + (" and changes" if self.about["dirty"] else "")
        return f"recorded on {self.about['date']}, commit {commit}, {self.about['machine']}"


def code() -> dict[str, Any]:
    """Return which code computes a table: its commit, whether files differ from it, and versions."""
    return provenance(folders=("lpc", "experiments"))


def record(
    name: str,
    table: pd.DataFrame,
    *,
    folder: Path,
    results: Path = MEASURED,
    by: Mapping[str, Any] | None = None,
    **about: Any,
) -> Path:
    """Write a table to the folder of recorded tables; return the table's own folder.

    Parameters
    ----------
    name
        Name of the table's folder.
    table
        Table with named rows; its index becomes the first column.
    folder
        Folder on the measured file system.
    results
        Folder of recorded tables.
    by
        Result of :func:`code`, taken before other tables were recorded, because these count as changed
        files; None: take it now.
    about
        Further facts about the table, which must be valid JSON.
    """
    known = code() if by is None else by
    made = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": known["commit"],
        "dirty": known["dirty"],
        "python": known["python"],
        "versions": known["versions"],
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, {file_system(folder)}",
        **about,
    }
    place = results / name
    write_bytes(place / "table.csv", table.to_csv().encode())
    write_json(place / "provenance.json", made)
    return place


def recorded(name: str, *, results: Path = MEASURED) -> Recorded:
    """Return a table that was recorded under a name, as text; its first column is the index.

    Raises
    ------
    lpc.store.reading.Damaged
        If the table is missing or damaged.
    """
    mend = "restore the committed file, or record it again"
    fields = {"date": str, "machine": str, "commit": (str, type(None)), "dirty": (bool, type(None))}
    about = read_object(results / name / "provenance.json", fields=fields, mend=mend)
    path = results / name / "table.csv"
    read_table(path, mend=mend)  # its error says what is wrong with the file
    return Recorded(pd.read_csv(path, dtype=str, index_col=0, keep_default_na=False), about)


def file_system(folder: Path) -> str:
    """Return the type of a folder's file system, such as ``ext4``; off Linux ``unknown file system``."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "unknown file system"
    mounts = [line.split()[1:3] for line in lines]
    under = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(under, key=lambda mount: len(mount[0]))[1] if under else "unknown file system"
