"""Leases of runs: many programs on one store, no two of which train the same run.

Nothing is locked: file systems that are shared often cannot. The last owner of a run
(:mod:`lpc.store.holders`) has it for as long as it lives: until it removes its heartbeat, is seen to be dead
by a program that can know, or has given no sign of life for :data:`~lpc.store.holders.LEASE`. To be the next
owner is to create the next owner file, by a hard link, which exactly one of many can. A successor first
removes the dead one's heartbeat: an owner that was only asleep notices before it writes anything. Owner files
stay until the run has finished: attempts only grow in number, so that nobody takes a new one for an old.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from lpc.computing.stopping import Stopped
from lpc.store import holders
from lpc.store.atomic import GONE, as_json, draft, name_exclusively, write_json
from lpc.store.holders import (
    WITHDRAWN,
    Holder,
    attempts,
    has_died,
    holder_of,
    owner_file,
    owners,
    read_owner,
    remove_heartbeat,
    server_time,
    sign_of,
    this_process,
)


class Held(RuntimeError):
    """Another program has these runs."""


class LostLease(Held):
    """Another program took this one for dead and has its runs now."""


class Lease:
    """The right of this process to train runs, granted for all or none of them; it ends with its context.

    A daemon thread gives a sign of life every :data:`~lpc.store.holders.HEARTBEAT`.

    Parameters
    ----------
    root
        Directory of the store.
    keys
        Keys of the runs that are asked for.
    finished
        Function from a run's key to whether the run has finished; such runs are left out, even if they
        finished only now.

    Attributes
    ----------
    keys
        Keys of the runs that were granted: those that had not finished.

    Raises
    ------
    Held
        If another program has one of the runs.
    """

    keys: list[str]

    def __init__(self, root: Path, keys: Sequence[str], finished: Callable[[str], bool]) -> None:
        self._root, self._finished = root.absolute(), finished
        self._me, self._token = this_process(), uuid.uuid4().hex
        self._heartbeat = self._root / "heartbeats" / self._token
        self._gained: dict[str, Path] = {}
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self.keys = sorted({key for key in keys if not finished(key)})
        if not self.keys:
            self._released.set()
            return
        for key in self.keys:
            self._look(key)
        write_json(self._heartbeat, {**asdict(self._me), "keys": self.keys})
        self._beating.start()
        try:
            for key in self.keys:
                self._gained[key] = self._gain(key)
            self.keys = [key for key in self.keys if not finished(key)]
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in GONE and self.keys and not self._give_sign():
            self.release()
            raise self._lost() from error  # a successor has ended, and removed, what was being written
        if error is None or isinstance(error, Held):
            self.release()
        elif isinstance(error, Stopped) or not isinstance(error, Exception):
            self.release(ended="stopped")
        else:
            self.release(ended=f"error: {type(error).__name__}: {error}")

    def check(self) -> None:
        """Give a sign of life before something is written.

        Raises
        ------
        LostLease
            If another program has taken over; nothing may then be written.
        """
        if self.keys and not self._give_sign():
            raise self._lost()

    def _lost(self) -> LostLease:
        return LostLease(
            f"{self._me} was taken for dead (no sign of life for {holders.LEASE:g} s, or its job was "
            "requeued): another program continues its runs, and nothing more is written here"
        )

    def release(self, *, ended: str | None = None) -> None:
        """Give the runs back, once.

        Parameters
        ----------
        ended
            Reason for unfinished runs: ``"stopped"``, ``"error: ..."``; None: they were not begun. The owner
            files of finished runs are removed.
        """
        if self._released.is_set():
            return
        self._released.set()
        if not self._give_sign():
            return  # all of it is another's
        try:
            for key, own in self._gained.items():
                if self._finished(key):
                    for path in owners(own.parent).values():
                        path.unlink(missing_ok=True)
                else:
                    write_json(own, self._owner(ended or WITHDRAWN))
        finally:
            self._heartbeat.unlink(missing_ok=True)

    def _give_sign(self) -> bool:
        """Touch the heartbeat; False if it is gone, because a successor has removed it."""
        try:
            os.utime(self._heartbeat)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        return True

    def _beat(self) -> None:
        while not self._released.wait(holders.HEARTBEAT):
            with suppress(OSError):  # the file server may be back at the next beat
                if not self._give_sign():
                    return

    def _owner(self, ended: str | None) -> dict[str, Any]:
        return {**asdict(self._me), "token": self._token, "ended": ended}

    def _look(self, key: str) -> None:
        """Raise Held if a run's owner is alive, checked in a few requests before anything is written."""
        for attempt in attempts(self._root, key)[-1:]:
            if attempt.ended is None:
                raise _held(key, attempt.holder)

    def _gain(self, key: str) -> Path:
        """Become the next owner of a run, unless the last one is alive."""
        directory = self._root / "runs" / key
        with draft(directory / "owner.json", as_json(self._owner(None))) as temporary:
            # having written there, this machine sees the folder as the server has it
            number = max(owners(directory), default=0)
            while True:
                self._bury(key, read_owner(owner_file(directory, number)))
                number += 1
                own = owner_file(directory, number)
                if name_exclusively(temporary, own):
                    return own

    def _bury(self, key: str, owner: dict[str, Any] | None) -> None:
        """Remove the heartbeat of a run's last owner if it is dead; raise an error if it is alive."""
        if owner is None or owner["ended"] is not None:
            return
        heartbeat = self._heartbeat.with_name(owner["token"])
        sign = sign_of(heartbeat)
        if sign is None:
            return
        held = _held(key, holder_of(owner))
        if not has_died(holder_of(owner), self._me):
            if server_time(heartbeat.parent) - sign.time <= holders.LEASE:
                raise held
            time.sleep(
                1.5 * holders.HEARTBEAT
            )  # all are silent where the file server, or this machine, slept
            again = sign_of(heartbeat)
            if again is not None and again.time != sign.time:
                raise held
        remove_heartbeat(heartbeat)


def _held(key: str, holder: Holder) -> Held:
    return Held(f"run {key} is held by {holder} since {holder.since}")
