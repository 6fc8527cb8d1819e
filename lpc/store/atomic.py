"""Files that are there whole or not at all, on a shared file system too: written beside, then named."""

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
    """Yield a hidden neighbour of a path, written and on disk; removed at the end where it is still there."""
    temporary = _begun(draft_of(path))
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _begun(temporary: Path) -> Path:
    """Make an empty file, and its folder; who sweeps may remove an empty folder in between."""
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
    """Return what writes a value as JSON into a path."""
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
    """Write a file that is not there yet, whole; False where it is: then it stays as it is."""
    with draft(path, lambda temporary: temporary.write_bytes(content)) as temporary:
        return name_exclusively(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON: readers see the old file or the whole new one."""
    write_file(path, as_json(value))


def name_exclusively(temporary: Path, path: Path) -> bool:
    """Give a draft a name that nothing has yet; of many programs that try, exactly one is told True.

    A hard link, as that is atomic on NFS, where locks need not exist.

    Raises
    ------
    OSError
        A file system without hard links; a link to nothing that has the name.
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
    """Make this machine see a folder as the file server has it: writing there ends what NFS has cached."""
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
