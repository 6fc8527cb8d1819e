"""Leftovers of killed programs in a store, and the removal of those that are certainly unused.

Nothing is removed that a living program may still need, be it awake or asleep:

- a draft, once its writer is known to have ended, or is out of sight and has not touched it for a day;
- a heartbeat, once its program is known to have ended; or has been silent for its lease, and all its runs
  have finished. Others stay until somebody trains those runs, and takes over. One that is damaged counts as
  dead after its lease, and is looked at twice, as a file server that was away leaves everybody silent;
- owner files of finished runs, and cohorts of which all runs have finished, by a lease of these runs: as who
  trains them would do it himself;
- remains of a cohort whose list of members is gone, once no program of the store can be alive.

Heartbeats and drafts have names that are never used again: dead ones stay dead. Anything else may have
been made anew since it was looked at, and so is taken aside first, looked at again, and put back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lpc.store import holders
from lpc.store.atomic import GONE, name_exclusively
from lpc.store.holders import (
    Sign,
    has_died,
    owners,
    read_owner,
    remove_heartbeat,
    server_time,
    sign_of,
    this_process,
)
from lpc.store.ownership import Held, Lease
from lpc.store.reading import Damaged, read_texts
from lpc.store.writers import draft_named, draft_of

FORGOTTEN = 86_400.0
"""Seconds after which a file without a visible writer, or a program on another machine, counts as dead."""
_ENDINGS = (".json", ".jsonl", ".safetensors", ".pt", ".probe", ".csv")
_PROBES = ("clock", "fresh")
"""Names of files that exist for a moment only, to see the file server's state."""


class Leftover(NamedTuple):
    """A file or folder that a program has left behind.

    Attributes
    ----------
    path
        The file, or the folder of a cohort.
    what
        Description of the leftover.
    """

    path: Path
    what: str


class Swept(NamedTuple):
    """Attempt to remove a leftover: ``error`` says why it is still there; None: it is removed."""

    leftover: Leftover
    error: str | None


class _Found(NamedTuple):
    leftover: Leftover
    remove: Callable[[], bool]
    waits: bool = False


def leftovers(root: Path, finished: Callable[[str], bool]) -> list[Leftover]:
    """Return the leftovers that a sweep would remove, without changing anything.

    Parameters
    ----------
    root
        Directory of the store.
    finished
        Function from a run's key to whether the run has ended and is whole.
    """
    return [one.leftover for one in _Search(root, finished, None).all()]


def sweep(
    root: Path,
    finished: Callable[[str], bool],
    *,
    keys: Iterable[str] | None = None,
    patient: bool = True,
) -> list[Swept]:
    """Remove leftovers that are certainly unused, and return those that were tried.

    Parameters
    ----------
    root
        Directory of the store.
    finished
        Function from a run's key to whether the run has ended and is whole.
    keys
        Keys of the runs to look at, besides leftovers that belong to no run; None: all.
    patient
        Whether to remove leftovers that take half a minute to be sure of: damaged heartbeats.
    """
    tried = []
    for one in _Search(root, finished, keys).all():
        if one.waits and not patient:
            continue
        try:
            if one.remove():
                tried.append(Swept(one.leftover, None))
        except (Held, Damaged) as error:
            tried.append(Swept(one.leftover, str(error)))
        except OSError as error:
            if error.errno not in GONE:
                tried.append(Swept(one.leftover, str(error)))
    return tried


class _Search:
    """One look through a store; dead heartbeats come first, because everything else is judged by them."""

    def __init__(self, root: Path, finished: Callable[[str], bool], keys: Iterable[str] | None) -> None:
        self.root, self.finished = root.absolute(), finished
        self.keys = None if keys is None else sorted(set(keys))
        self.me, self.dead, self._now = this_process(), set[str](), None
        self.maybe_alive = False

    def all(self) -> Iterator[_Found]:
        yield from self._heartbeats()
        for folder in (self.root, self.root / "submissions", self.root / "cohorts"):
            yield from self._drafts(folder, names_in(folder))
        for folder in sorted(self.root.glob("cohorts/*")):
            if folder.is_dir() and not folder.name.startswith("."):
                yield from self._cohort(folder)
        runs = self.root / "runs"
        for key in names_in(runs) if self.keys is None else self.keys:
            names = names_in(runs / key)
            yield from self._drafts(runs / key, names)
            if any(name.startswith("owner-") for name in names) and "result.json" in names:
                yield from self._owners(key)

    def age(self, time_of_change: float) -> float:
        """Return the age of a file in seconds, by the file server's clock if that can be asked."""
        if self._now is None:
            try:
                self._now = server_time(self.root)
            except OSError:  # a store that cannot be written
                self._now = time.time()
        return self._now - time_of_change

    def _drafts(self, folder: Path, names: Sequence[str]) -> Iterator[_Found]:
        for name in names:
            draft = draft_named(name) if name.startswith(".") else None
            if draft is None or draft.died is False or not _is_ours(draft.name, folder):
                continue
            path = folder / name
            if draft.died is None:
                changed = _changed(path)
                if changed is None or self.age(changed) <= FORGOTTEN:
                    continue
            what = "file that was being written by a program that has died"
            yield _Found(Leftover(path, what), partial(_unlink, path))

    def _heartbeats(self) -> Iterator[_Found]:
        folder = self.root / "heartbeats"
        names = names_in(folder)
        yield from self._drafts(folder, names)
        for name in names:
            sign = None if name.startswith(".") else sign_of(folder / name)
            if sign is None:
                continue
            path, silent = folder / name, self.age(sign.time)
            if sign.holder is not None and has_died(sign.holder, self.me):
                what = f"heartbeat of {sign.holder}, which has died"
                found = _Found(Leftover(path, what), partial(_unlink, path))
            elif sign.holder is None and silent > holders.LEASE:
                what = "damaged heartbeat of a program that gives no sign of life"
                yield _Found(Leftover(path, what), partial(_unlink_if_silent, path, sign), waits=True)
                continue
            elif sign.holder is not None and silent > holders.LEASE and self._all_finished(sign.keys):
                what = f"heartbeat of {sign.holder}, which gives no sign of life; its runs have finished"
                found = _Found(Leftover(path, what), partial(_unlink, path))
            else:
                here = sign.holder is not None and sign.holder.place == self.me.place
                self.maybe_alive |= here or silent <= FORGOTTEN
                continue
            self.dead.add(name)
            yield found

    def _all_finished(self, keys: Sequence[str]) -> bool:
        return bool(keys) and all(self._finished(key) for key in keys)

    def _finished(self, key: str) -> bool:
        try:
            return self.finished(key)
        except Damaged:
            return False

    def _cohort(self, folder: Path) -> Iterator[_Found]:
        names = names_in(folder)
        yield from self._drafts(folder, names)
        if "members.json" in names:
            try:
                keys = read_texts(folder / "members.json")
            except Damaged:
                return
            if keys and self._all_finished(keys) and not any(map(self._is_held, keys)):
                what = f"state of {len(keys)} runs that have all finished"
                yield _Found(Leftover(folder, what), partial(self._end, folder, keys))
        elif not self.maybe_alive and not any(name.startswith(".") for name in names):
            signs = {name: _changed(folder / name) for name in ("state.pt", "progress.json")}
            what = "remains of a cohort that has ended"
            yield _Found(Leftover(folder, what), partial(_clear_ended, folder, signs))

    def _owners(self, key: str) -> Iterator[_Found]:
        if self._finished(key) and not self._is_held(key):
            path = next(iter(owners(self.root / "runs" / key).values()), None)
            if path is not None:
                what = "owner files of a run that has finished"
                yield _Found(Leftover(path, what), partial(self._release, [key]))

    def _is_held(self, key: str) -> bool:
        """Whether a run's owner that has not reported its end may be alive."""
        for path in owners(self.root / "runs" / key).values():
            try:
                owner = read_owner(path)
            except Damaged:
                return True  # nobody knows whose it is
            if owner is None or owner["ended"] is not None or owner["token"] in self.dead:
                continue
            if (self.root / "heartbeats" / owner["token"]).exists():
                return True
        return False

    def _release(self, keys: Sequence[str]) -> bool:
        with self._leased(keys):
            return True

    def _end(self, folder: Path, keys: Sequence[str]) -> bool:
        with self._leased(keys):
            if not self._all_finished(keys):
                return False  # somebody has removed a run since
            for path in (folder / "members.json", *folder.iterdir()):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # NFS keeps what another program reads at this moment
                folder.rmdir()
            return True

    def _leased(self, keys: Sequence[str]) -> Lease:
        """Return a lease of runs even if they have finished; the owner files of finished runs go with it."""
        begun = False

        def finished(key: str) -> bool:
            return begun and self._finished(key)

        lease = Lease(self.root, keys, finished)
        begun = True
        return lease


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none if there is no such folder."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 a Path for every name would take as long again
    except (FileNotFoundError, NotADirectoryError):
        return []


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _is_ours(name: str, folder: Path) -> bool:
    """Whether a draft of this name is one that a store writes: nobody else's files are touched."""
    return name.endswith(_ENDINGS) or name in _PROBES or folder.name == "heartbeats"


def _unlink(path: Path) -> bool:
    path.unlink()
    return True


def _unlink_if_silent(path: Path, sign: Sign) -> bool:
    """Remove a heartbeat unless it is renewed within one and a half intervals."""
    time.sleep(1.5 * holders.HEARTBEAT)
    again = sign_of(path)
    if again is None or again.time != sign.time:
        return False
    remove_heartbeat(path)
    return True


def _clear_ended(folder: Path, seen: dict[str, float | None]) -> bool:
    """Remove the unchanged files of a cohort, then its folder if that is empty."""
    removed = [_take(folder / name, time_seen) for name, time_seen in seen.items() if time_seen is not None]
    with suppress(OSError):
        folder.rmdir()
        return True
    return any(removed)


def _take(path: Path, seen: float) -> bool:
    """Remove a file if it is still the one that was seen; put another back, unless there is a newer one."""
    aside = draft_of(path)
    path.rename(aside)
    try:
        if _changed(aside) == seen:
            return True
        with suppress(FileExistsError):
            name_exclusively(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)
