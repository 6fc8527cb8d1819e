"""Reports a crash test, and records its table."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

from experiments.crashtest.campaign import Found
from experiments.crashtest.events import Event
from experiments.reporting.recorded_tables import Recorded, record, recorded

NAME = "crashtest"
MOST = 5
"""Largest number of lines that are shown of each kind."""


def lines(found: Found) -> list[str]:
    """Return lines on what the table does not show: the kinds of event, the damage, and the leftovers."""
    said = [f"interrupted at {len(found.reached & found.kinds)} of {len(found.kinds)} kinds of event"]
    if found.late:
        said.append(f"{found.late} interruptions came too late and were repeated earlier")
    left = Counter(Event("", path).kind.path for one in found.outcomes for path in one.left)
    said += [f"left over, {number} times: {path}" for path, number in left.most_common(MOST)]
    wrong = [(one.trial.way, line) for one in found.outcomes for line in one.damage]
    said += [f"{way}: {line}" for way, line in wrong[:MOST]]
    if len(wrong) > MOST:
        said.append(f"and {len(wrong) - MOST} more")
    return said + [f"kept: {folder}" for folder in found.kept]


def write(found: Found, *, folder: Path | None, seed: int) -> Path:
    """Record the table and return its folder; ``folder`` and ``seed`` are the crash test's."""
    return record(
        NAME,
        found.table(),
        folder=Path(tempfile.gettempdir()) if folder is None else folder,
        seed=seed,
        kinds_of_event=len(found.kinds),
        reached=len(found.reached & found.kinds),
    )


def read() -> Recorded:
    """Return the recorded table."""
    return recorded(NAME)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as the book shows it, with columns that explain themselves."""
    names = {"twice": "trained twice", "errors": "wrong errors", "left": "files left over"}
    return table.rename(columns=names)
