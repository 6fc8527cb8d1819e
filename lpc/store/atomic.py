"""Files that exist whole or not at all, also on a shared file system: written beside, then renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lpc.store.writers import draft_of

GONE = (errno.ENOENT, errno.ESTALE)
"""Errors of a file that another program has removed; the second is NFS's."""


@contextmanager
def draft(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a hidden neighbour of a path, written to disk; removed at the end if it is still there."""
    temporary = _begun(draft_of(path))
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _begun(temporary: Path) -> Path:
    """Make an empty file and its folder; a sweep may remove an empty folder in between."""
    for last in (False, False, True):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(exist_ok=False)  # its mode follows the umask, which mkstemp's does not
            break
        except FileNotFoundError:
            if last:
                raise
    return temporary


def as_json(value: object) -> Callable[[Path], object]:
    """Return a function that writes a value as JSON into a path."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return lambda path: path.write_text(text)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file: readers see the old one or the whole new one."""
    with draft(path, write) as temporary:
        temporary.replace(path)


def write_bytes(path: Path, *content: bytes | memoryview) -> None:
    """Write a file of some bytes, one after the other: readers see the old file or the whole new one."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            for one in content:
                stream.write(one)

    write_file(path, write)


def write_once(path: Path, content: bytes) -> bool:
    """Write a new file, whole; return False and leave it alone if it already exists."""
    with draft(path, lambda temporary: temporary.write_bytes(content)) as temporary:
        return name_exclusively(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON: readers see the old file or the whole new one."""
    write_file(path, as_json(value))


def name_exclusively(temporary: Path, path: Path) -> bool:
    """Give a draft a name that is still free; if many programs try, exactly one gets True.

    A hard link, as that is atomic on NFS, where locks need not exist.

    Raises
    ------
    OSError
        If the file system has no hard links, or a dangling link has the name.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.is_symlink() and not path.exists():
            raise OSError(errno.EEXIST, "a link to nothing is in the way; remove it", str(path)) from None
        return temporary.stat().st_nlink == 2  # NFS repeats a request whose answer was lost
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        reason = "this file system has no hard links, without which runs cannot be leased; keep the store"
        raise OSError(error.errno, f"{reason} on another one", str(path)) from error
    return True


def see_afresh(folder: Path) -> None:
    """Make this machine see a folder as the file server has it: writing there drops NFS's cache."""
    with written_there(folder, "fresh"):
        pass


@contextmanager
def written_there(folder: Path, name: str) -> Iterator[Path]:
    """Yield an empty hidden file in a folder, which is removed at the end."""
    probe = _begun(draft_of(folder / name))
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)
