"""Holders of a store's runs, and whether they are alive: processes of one machine or of many.

Layout::

    heartbeats/<token>           of a program that trains: who it is and which runs it has; the file's time is
                                 its last sign of life, by the file server's clock
    runs/<key>/owner-<n>.json    the n-th attempt at a run: whose it is, and how it ended
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from lpc.store.atomic import GONE, written_there
from lpc.store.reading import Damaged, parsed_object, read_object_if_there
from lpc.store.writers import has_ended
from lpc.store.writers import place as _place
from lpc.store.writers import started as _started

HEARTBEAT = 15.0
"""Seconds from one sign of life to the next."""
LEASE = 180.0
"""Seconds without a sign of life after which others take over; well above NFS's 60 s of cached attributes."""
WITHDRAWN = "withdrawn"
"""End of a lease that was given back before anything was trained."""


@dataclass(frozen=True)
class Holder:
    """A process that has a run.

    Attributes
    ----------
    host, pid
        Machine that it runs on, and its process id.
    started
        Start of the process in the kernel's ticks; None: the system does not say.
    place
        Host, boot and process namespace, within which ``pid`` identifies one process; None: unknown.
    cluster, job, restart
        SLURM job (for an array: ``<array>_<task>``) and how often it was requeued; None and 0 outside of
        SLURM.
    since
        Time at which it took its runs, by its own clock: UTC, ISO 8601.
    """

    host: str
    pid: int
    started: int | None
    place: str | None
    cluster: str | None
    job: str | None
    restart: int
    since: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}" + (f" (job {self.job})" if self.job else "")


_HOLDER = {
    **dict.fromkeys(("host", "since"), str),
    **dict.fromkeys(("pid", "restart"), int),
    **dict.fromkeys(("place", "cluster", "job"), (str, type(None))),
    "started": (int, type(None)),
}
_OWNER = {**_HOLDER, "token": str, "ended": (str, type(None))}


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run that has not finished.

    Attributes
    ----------
    holder
        Process that tried, and since when.
    ended
        Reason for the end: ``"stopped"``, ``"error: ..."``, or ``"died"`` if the process could not record
        one; None: still alive.
    """

    holder: Holder
    ended: str | None


def this_process() -> Holder:
    """Return the marks by which others identify this process."""
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        place=_place(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        job=job,
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def has_died(holder: Holder, me: Holder) -> bool:
    """Whether this process knows, without waiting for the lease, that a holder has ended.

    It does where both are of one place and the holder's process has ended, and where both are of one SLURM
    job, which has been requeued since.
    """
    if holder.place is None or holder.place != me.place:
        again = holder.job is not None and (holder.cluster, holder.job) == (me.cluster, me.job)
        return again and holder.restart < me.restart  # the same job, before it was requeued
    return has_ended(holder.pid, holder.started)


class Sign(NamedTuple):
    """Content of a heartbeat: when it was last given, by whom, and for which runs.

    A damaged one has only a time: nobody is known to have died, and it counts for as long as its lease.
    """

    time: float
    holder: Holder | None
    keys: list[str]


def sign_of(heartbeat: Path) -> Sign | None:
    """Return a heartbeat as the server has it, or None if it is gone."""
    try:
        with heartbeat.open("rb") as stream:  # opening asks the server; a mere stat may be a minute old
            time, content = os.fstat(stream.fileno()).st_mtime, stream.read()
    except IsADirectoryError:
        return Sign(heartbeat.stat().st_mtime, None, [])
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
    try:
        values = parsed_object(heartbeat, content, fields={**_HOLDER, "keys": list})
    except Damaged:
        return Sign(time, None, [])
    return Sign(time, holder_of(values), [key for key in values["keys"] if isinstance(key, str)])


def remove_heartbeat(heartbeat: Path) -> None:
    """Remove a heartbeat, also if an empty folder has taken its place; it may be gone already."""
    try:
        heartbeat.unlink(missing_ok=True)
    except OSError:
        if not heartbeat.is_dir():
            raise
        heartbeat.rmdir()


def server_time(folder: Path) -> float:
    """Return the time by the clock that dates the heartbeats: no machine's own."""
    with written_there(folder, "clock") as probe:
        os.utime(probe)
        return probe.stat().st_mtime


def holder_of(content: dict[str, Any]) -> Holder:
    """Return the holder that a heartbeat or an owner file names."""
    return Holder(**{field.name: content[field.name] for field in fields(Holder)})


def read_owner(path: Path) -> dict[str, Any] | None:
    """Return the content of an owner file, or None if it is gone.

    Raises
    ------
    lpc.store.reading.Damaged
        If the file does not say who has the run.
    """
    return read_object_if_there(path, fields=_OWNER)


def _lives(sign: Sign | None, me: Holder, now: Callable[[], float]) -> bool:
    if sign is None or (sign.holder is not None and has_died(sign.holder, me)):
        return False
    return now() - sign.time <= LEASE


def live_holders(root: Path) -> dict[str, Holder]:
    """Return the present holders of a store's runs, by run key, without dead ones."""
    folder, me, found = root / "heartbeats", this_process(), {}
    heartbeats = [path for path in folder.iterdir() if path.name[0] != "."] if folder.exists() else []
    now = server_time(folder) if heartbeats else 0.0
    for heartbeat in sorted(heartbeats):
        sign = sign_of(heartbeat)
        if sign is not None and sign.holder is not None and _lives(sign, me, lambda: now):
            found.update(dict.fromkeys(sign.keys, sign.holder))
    return found


def attempts(root: Path, key: str) -> list[Attempt]:
    """Return the attempts at an unfinished run, in order; withdrawn leases do not count."""
    folder, me, found = root / "heartbeats", this_process(), []
    for path in owners(root / "runs" / key).values():
        content = read_owner(path)
        if content is None or content["ended"] == WITHDRAWN:
            continue
        ended = content["ended"]
        if ended is None and not _lives(sign_of(folder / content["token"]), me, lambda: server_time(folder)):
            ended = "died"
        found.append(Attempt(holder_of(content), ended))
    return found


def owners(directory: Path) -> dict[int, Path]:
    """Return the owner files of a run by their numbers, in order."""
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"owner-(\d+)\.json", name)))
    return {number: owner_file(directory, number) for number in numbers}


def owner_file(directory: Path, number: int) -> Path:
    """Return the owner file of a run's attempt with this number."""
    return directory / f"owner-{number}.json"
