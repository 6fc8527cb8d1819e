"""Writers: the name of a file's draft identifies the process that writes it, so that others know if it died.

A draft is called ``.<name>.<place>-<pid>-<started>.<random>``. The place is the machine since its last boot,
with the namespace of its processes: there the number and the start of a process mean one process for ever.
Drafts of earlier versions, ``.<name>.<random>``, do not identify the writer.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from pathlib import Path
from typing import NamedTuple

WRITER = r"(?P<place>[0-9a-f]{8}|x)-(?P<pid>\d+)-(?P<started>\d+|x)"
"""Pattern of a process's mark in a name, see :func:`mark`."""
_DRAFT = re.compile(rf"\.(?P<name>.+?)\.(?:{WRITER}\.)?(?P<random>[0-9a-z_]{{8,12}})")
_FOLDER = re.compile(rf"\.(?P<name>[a-z]+)-(?:{WRITER}-)?(?P<random>[0-9a-z_]{{8,12}})")


class Draft(NamedTuple):
    """Parts of a draft's name.

    Attributes
    ----------
    name
        Name of the file that it is a draft of.
    died
        Whether the process that writes it has ended; None: this machine cannot tell.
    """

    name: str
    died: bool | None


def place() -> str | None:
    """Return the place in which a process id is unique: host, boot and namespace; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None  # not Linux: only time tells who is dead


def started(pid: int) -> int | None:
    """Return the start of a process, or None if it has ended or the system does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(rest[18])


def has_ended(pid: int, began: int | None) -> bool:
    """Whether the process of this place with that start has ended."""
    if Path(f"/proc/{pid}/stat").exists():
        return started(pid) != began
    try:
        os.kill(pid, 0)  # where /proc hides others' processes
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _short(where: str | None) -> str:
    return "x" if where is None else hashlib.sha256(where.encode()).hexdigest()[:8]


def mark() -> str:
    """Return the mark of this process in names of drafts."""
    pid = os.getpid()
    began = started(pid)
    return f"{_short(place())}-{pid}-{'x' if began is None else began}"


def draft_of(path: Path) -> Path:
    """Return a unique name for a draft of a file, hidden beside it."""
    return path.with_name(f".{path.name}.{mark()}.{uuid.uuid4().hex[:12]}")


def folder_prefix(name: str) -> str:
    """Return the prefix of this process's temporary folders of a kind, such as ``.executing-``."""
    return f".{name}-{mark()}-"


def draft_named(name: str) -> Draft | None:
    """Return the parts of a draft's name, or None for the name of another file."""
    return _read(_DRAFT.fullmatch(name))


def folder_named(name: str) -> Draft | None:
    """Return the parts of a temporary folder's name, or None for the name of another folder."""
    return _read(_FOLDER.fullmatch(name))


def _read(found: re.Match[str] | None) -> Draft | None:
    if found is None:
        return None
    where, began = found["place"], found["started"]
    if where in (None, "x") or began == "x" or where != _short(place()):
        return Draft(found["name"], None)
    return Draft(found["name"], has_ended(int(found["pid"]), int(began)))
