"""Results of GPU checks: one JSON and one Markdown file per device, written after every section."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.paths import GPU_CHECKS
from experiments.reporting.tables import MISSING, number
from lpc.computing.devices import default_device
from lpc.computing.provenance import provenance
from lpc.store.atomic import write_bytes, write_json
from lpc.training.choices import CHOICES, VARIABLE

DONE, PIECE = "done", "continues in the next call"
FAILED, CUT_OFF, NOT_RUN = "failed", "cut off", "not run"
_SAME = ("device", "python", "versions", "gpu")
"""Fields of the provenance that must be the same for all sections of a record."""


@dataclass
class Record:
    """The check of one device.

    Attributes
    ----------
    path
        Path of the JSON file; the Markdown file lies beside it.
    content
        ``provenance``; when the check was ``begun``; the ``plan``, the titles of all sections by name; and
        ``sections`` by name, with status, reason, seconds, date, commit and rows.
    """

    path: Path
    content: dict[str, Any]

    @property
    def device(self) -> str:
        """The name of the GPU."""
        return str(self.content["provenance"]["device"])

    def status(self, section: str) -> str | None:
        """Return the status of a section; None if it was never tried."""
        found = self.content["sections"].get(section)
        return None if found is None else str(found["status"])

    def open(self) -> list[str]:
        """Return the names of the sections still to do, except the one that is done in pieces."""
        return [name for name in self.content["plan"] if self.status(name) not in (DONE, PIECE)]

    def add(
        self,
        section: str,
        status: str,
        rows: Iterable[tuple[str, Mapping[str, Any]]] = (),
        *,
        reason: str | None = None,
        seconds: float | None = None,
        code: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a section's result into both files; rows that only an earlier try has are kept.

        Parameters
        ----------
        section, status, rows
            Name of the section, its status, and its rows.
        reason
            Why it was not done.
        seconds
            Seconds that it took.
        code
            Provenance, whose commit is kept; None: the record's.
        """
        made = self.content["provenance"] if code is None else code
        before = self.content["sections"].get(section, {"rows": []})["rows"]
        fresh = [{"what": what, **{k: _plain(v) for k, v in values.items()}} for what, values in rows]
        named = {row["what"] for row in fresh}
        self.content["sections"][section] = {
            "status": status,
            "reason": reason,
            "seconds": None if seconds is None else round(seconds, 1),
            "date": _now(),
            "commit": made["commit"],
            "dirty": made["dirty"],
            "rows": [*(row for row in before if row["what"] not in named), *fresh],
        }
        self.write()

    def write(self) -> None:
        """Write both files."""
        write_json(self.path, self.content)
        write_bytes(self.path.with_suffix(".md"), markdown(self).encode())


def begin(plan: Mapping[str, str], folder: Path = GPU_CHECKS, *, fresh: bool = False) -> Record:
    """Return the record of this device's check: the one to continue, or a new one.

    Parameters
    ----------
    plan
        Titles of all sections, by name.
    folder
        Folder of the records.
    fresh
        Whether to start over; the old record is then kept in the folder ``earlier``.

    Raises
    ------
    ValueError
        If the record was made with other versions or another driver, so that old and new rows would not be
        comparable.
    """
    known = provenance(default_device("cuda"), folders=("lpc", "experiments"))
    path = folder / f"{slug(known['device'])}.json"
    if path.exists() and fresh:
        stamp = re.sub(r"\D", "", read(path).content["begun"])[:14]
        for old in (path, path.with_suffix(".md")):
            if old.exists():
                (folder / "earlier").mkdir(exist_ok=True)
                old.rename(folder / "earlier" / f"{old.stem}-{stamp}{old.suffix}")
    if not path.exists():
        return Record(path, {"provenance": known, "begun": _now(), "plan": dict(plan), "sections": {}})
    record = read(path)
    record.content["plan"] = dict(plan)
    there = record.content["provenance"]
    differs = [name for name in _SAME if there.get(name) != known.get(name)]
    if differs:
        raise ValueError(
            f"{path.name} was made with other {' and '.join(differs)}: {there.get(differs[0])}, here "
            f"{known.get(differs[0])}; --fresh starts over and keeps the old record"
        )
    return record


def read(path: Path) -> Record:
    """Return a record from its file; if it cannot be read, a ValueError names it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(path, {name: content[name] for name in ("provenance", "begun", "plan", "sections")})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a record of gpu-check ({error!r}); remove it, or use --fresh"
        ) from error


def recorded(folder: Path = GPU_CHECKS) -> list[Record]:
    """Return the existing records, ordered by device."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def slug(device: str) -> str:
    """Return a device's name as a file name: ``NVIDIA H200`` becomes ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def table(record: Record, section: str) -> pd.DataFrame | None:
    """Return a section's results as text, one row per measurement; None if there are none."""
    rows = record.content["sections"].get(section, {"rows": []})["rows"]
    if not rows:
        return None
    frame = pd.DataFrame([{k: _text(v) for k, v in row.items()} for row in rows])
    return frame.fillna(MISSING).set_index("what").rename_axis(None)


def tables(record: Record) -> dict[str, pd.DataFrame]:
    """Return the tables of all sections with results, by title."""
    found = {title: table(record, section) for section, title in record.content["plan"].items()}
    return {title: rows for title, rows in found.items() if rows is not None}


def overview(record: Record) -> pd.DataFrame:
    """Return one row of text per section: status, date, commit, and, if it was not done, why."""
    rows = {}
    for section, title in record.content["plan"].items():
        found = record.content["sections"].get(section)
        if found is None:
            rows[title] = {"ended": NOT_RUN, "date": MISSING, "seconds": MISSING, "why": MISSING}
            continue
        rows[title] = {
            "ended": found["status"],
            "date": found["date"][:10],
            "seconds": MISSING if found["seconds"] is None else number(found["seconds"]),
            "why": found["reason"] or MISSING,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("section")


def worth_taking(record: Record) -> str:
    """Return a sentence that says which choices pay off."""
    found = record.content["sections"].get("choices", {"rows": []})["rows"]
    judged = {row["what"]: row["worth taking"] for row in found if row["what"] in CHOICES}
    if not judged:
        return "No choice has been measured on this GPU."
    taken = [name for name, worth in judged.items() if worth]
    if not taken:
        return f"Measured, but without enough gain on this GPU: {', '.join(judged)}."
    return f"These choices pay off on this GPU: {VARIABLE}={','.join(taken)}"


def about(record: Record) -> str:
    """Return one line on the provenance of a record."""
    known = record.content["provenance"]
    gpu, versions = known.get("gpu") or {}, known["versions"]
    parts = [f"torch {versions['torch']}", *(f"{name} {value}" for name, value in gpu.items() if value)]
    changed = ", with uncommitted changes" if known["dirty"] else ""
    commit = "an unknown commit" if known["commit"] is None else f"commit {known['commit'][:12]}{changed}"
    return f"{record.device}, begun {record.content['begun'][:10]} at {commit}: {', '.join(parts)}"


def markdown(record: Record) -> str:
    """Return a record as a page."""
    parts = [f"# Check of {record.device}", about(record), _pipes(overview(record)), worth_taking(record)]
    for title, found in tables(record).items():
        parts += [f"## {title}", _pipes(found)]
    return "\n\n".join(parts) + "\n"


def _pipes(frame: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""

    def line(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"

    head = [frame.index.name or "", *frame.columns]
    body = [line([name, *row]) for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join([line(head), line(["---"] * len(head)), *body])


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a value for JSON; a number that is not finite becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
