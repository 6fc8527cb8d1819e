"""Logs a process's file-system events, and interrupts the process at one of them.

An event is anything that changes a store: a file is opened for writing, written to, synchronised, renamed,
linked, touched or removed, or a folder is made or removed. An audit hook (PEP 578) reports most events; it
stays until the process ends, so watch only a forked process. Writing and synchronising have no such hook:
there, the functions themselves are replaced.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lpc.store.writers import WRITER

Act = Literal["kill", "fill", "stop"]
"""Kinds of interruption: SIGKILL; a disk that is full from then on; SIGSTOP."""

HALF = "write half of"
_PLACE = {"os.rename": 1, "os.link": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.utime": 0}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NEED_SPACE = ("open", "mkdir", "link", "fsync", HALF)
_VARIES = re.compile(
    rf"(?<=\.){WRITER}\.[0-9a-f]{{12}}$|[0-9a-f]{{32,64}}|(?<=owner-)\d+|(?<=\.)[0-9a-f]{{12}}$"
)


class Event(NamedTuple):
    """A change of a store: its kind and the file."""

    name: str
    path: str

    @property
    def kind(self) -> Event:
        """The event without anything that differs between runs or programs."""
        return Event(self.name, _VARIES.sub("*", self.path))


class Happening(NamedTuple):
    """A kind of interruption, and the number of its event in the process, from 0."""

    act: Act
    at: int


def told(log: Path) -> list[tuple[str, Event]]:
    """Return the events in a log, each with its outcome: ``done``, ``killed`` or ``refused``."""
    if not log.exists():
        return []
    lines = [line.split(" ", 3) for line in log.read_text().splitlines()]
    return [(how, Event(name.replace("_", " "), path)) for how, _, name, path in lines]


def watch(root: Path, log: Path, happening: Happening | None = None) -> None:
    """Log every event of this process in a store, and interrupt it at one of them.

    Parameters
    ----------
    root
        Folder of the store, without symbolic links in its path.
    log
        File outside the store to which a line per event is appended: outcome, process, kind and file.
    happening
        Interruption at an event; None: none.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    numbers = itertools.count()

    def happens(name: str, path: str, *, new: bool = True) -> None:
        number, how = next(numbers), "done"
        act, at = happening or (None, None)
        if at is not None and act == "fill" and number >= at and name in _NEED_SPACE and new:
            how = "refused"
        elif number == at and act == "kill":
            how = "killed"
        os.write(descriptor, f"{how} {os.getpid()} {name.replace(' ', '_')} {path}\n".encode())
        if how == "refused":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{root}/{path}")
        if number == at and act in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if act == "kill" else signal.SIGSTOP)

    def hear(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            if not isinstance(path, int) and flags & _WRITING:
                inside = _inside(root, path)
                if inside is not None:
                    happens("open", inside, new=not os.path.exists(path))  # noqa: PTH110
        elif name in _PLACE:
            folder = arguments[-1] if name in ("os.remove", "os.rmdir") else -1
            inside = _inside(root, arguments[_PLACE[name]], folder)
            if inside is not None:
                happens(name.removeprefix("os."), inside)

    _replace_writing(root, happens)
    sys.addaudithook(hear)


def _inside(root: Path, path: Any, folder: int = -1) -> str | None:
    """Return a path relative to the store; None if it is elsewhere."""
    text = os.fsdecode(path)
    if folder >= 0:
        text = f"{os.readlink(f'/proc/self/fd/{folder}')}/{text}"  # noqa: PTH115
    start = f"{root}/"
    return text[len(start) :] if text.startswith(start) else None


def _replace_writing(root: Path, happens: Callable[[str, str], None]) -> None:
    """Make writing to files of a store, and synchronising them, events."""
    usual_open, usual_fsync = io.open, os.fsync

    class Raw(io.FileIO):
        inside = ""

        def write(self, content: Any, /) -> int:
            view = memoryview(content).cast("B")
            half = len(view) // 2
            happens("write", self.inside)
            done = super().write(view[:half]) if half else 0
            happens(HALF, self.inside)
            return (done or 0) + (super().write(view[done:]) or 0)

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        writes = set(mode) & set("wax+") and not isinstance(file, int) and opener is None
        inside = _inside(root, file) if writes else None
        if inside is None:
            return usual_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd)
        raw.inside = inside
        if buffering == 0:
            return raw
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

    def fsync(descriptor: int) -> None:
        inside = _inside(root, os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        if inside is not None:
            happens("fsync", inside)
        usual_fsync(descriptor)

    io.open = builtins.open = opened  # type: ignore[assignment]
    os.fsync = fsync
