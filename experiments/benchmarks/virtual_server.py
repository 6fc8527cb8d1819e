"""A file server in virtual time: it counts and queues the requests of many programs in one process.

Every program is a thread, and only one runs at a time: the one whose clock is furthest behind. A request to
the file system is really made, at once, and then takes virtual time: it waits for one of the server's slots,
is served, and its answer crosses the network. Sleeping takes virtual time, too; computing takes none, as if
each program had a processor of its own. So the order of requests decides who comes first, as on a cluster,
and not how much this machine can run at once.
"""

from __future__ import annotations

import heapq
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("stat", "open", "link", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "utime")
"""Functions of ``os`` that make one request per call."""
LISTS = ("listdir", "scandir")


class Server:
    """A file server and the programs that use it.

    Parameters
    ----------
    root
        Folder on the server; access to other folders takes no time.
    network
        Seconds from a request to its answer, besides the server's own time.
    service
        Seconds for which a request occupies one of the server's slots.
    places
        Number of slots: requests that are served at the same time.

    Attributes
    ----------
    requests
        Numbers of requests so far, by kind.
    waited
        Seconds that requests waited for a slot, summed over programs.
    """

    def __init__(self, root: Path, *, network: float, service: float, places: int) -> None:
        if min(network, service) < 0 or places < 1:
            raise ValueError(f"network, service and places are {network}, {service} and {places}")
        self.root, self.network, self.service = f"{root}/", network, service
        self.requests: Counter[str] = Counter()
        self.waited = 0.0
        self._free = [0.0] * places
        self._programs: dict[int, _Program] = {}
        self._ready: list[tuple[float, int]] = []

    def run(self, programs: Sequence[Callable[[], object]]) -> list[float]:
        """Run programs side by side and return when each ended, in virtual seconds from the beginning.

        Raises
        ------
        Exception
            If a program fails; the first error is raised.
        """
        ends, errors = [0.0] * len(programs), []

        def begin(number: int, work: Callable[[], object]) -> None:
            me = _Program(number)
            self._programs[threading.get_ident()] = me
            started.release()
            me.turn.acquire()
            try:
                work()
            except BaseException as error:
                errors.append(error)
            ends[number] = me.now
            del self._programs[threading.get_ident()]
            self._next(finished)

        started, finished = threading.Semaphore(0), threading.Event()
        with self._heard():
            threads = [threading.Thread(target=begin, args=item, daemon=True) for item in enumerate(programs)]
            self._by_number: dict[int, _Program] = {}
            for thread in threads:
                thread.start()
                started.acquire()
            self._by_number = {one.number: one for one in self._programs.values()}
            self._ready = [(0.0, number) for number in sorted(self._by_number)]
            self._next(finished)
            finished.wait()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        return ends

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning, by the calling program's clock."""
        return self._programs[threading.get_ident()].now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass for the calling program."""
        me = self._programs[threading.get_ident()]
        self._resume_at(me, me.now + seconds)

    def pool(self, threads: int) -> _Pool:
        """Return a stand-in for a pool of threads, which makes the requests one after another."""
        return _Pool(self._programs[threading.get_ident()], threads)

    def _request(self, kind: str) -> None:
        me = self._programs.get(threading.get_ident())
        if me is None:
            return
        self.requests[kind] += 1
        start = max(me.now, heapq.heappop(self._free))
        self.waited += start - me.now
        heapq.heappush(self._free, start + self.service)
        self._resume_at(me, start + self.service + self.network / me.together)

    def _resume_at(self, me: _Program, when: float) -> None:
        me.now = when
        if self._ready and self._ready[0][0] < when:
            heapq.heappush(self._ready, (when, me.number))
            self._next(None)
            me.turn.acquire()

    def _next(self, finished: threading.Event | None) -> None:
        """Give the turn to the program whose clock is furthest behind; if there is none, all are finished."""
        if self._ready:
            self._by_number[heapq.heappop(self._ready)[1]].turn.release()
        elif finished is not None:
            finished.set()

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """In the programs' threads, turn file-system calls into requests, and make sleeping virtual."""
        asking: dict[str, Any] = {name: self._asking(getattr(os, name), name) for name in (*CALLS, *LISTS)}
        asking["fsync"] = self._asking(os.fsync, "fsync", place=None)
        with (
            mock.patch.multiple(os, **asking),
            mock.patch.multiple(io, open=self._opening(io.open)),
            mock.patch.multiple(time, sleep=self._slept(time.sleep), monotonic=self._clock(time.monotonic)),
        ):
            yield

    def _within(self, path: Any) -> bool:
        return not isinstance(path, int) and f"{os.fsdecode(path)}/".startswith(self.root)

    def _asking(self, call: Callable[..., Any], kind: str, *, place: int | None = 0) -> Callable[..., Any]:
        @wraps(call)
        def asking(*arguments: Any, **options: Any) -> Any:
            if place is None or (arguments and self._within(arguments[place])):
                self._request(kind)
            return call(*arguments, **options)

        return asking

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if self._within(file) and "opener" not in options:
                self._request("open")
                if set(mode) & set("wax+"):
                    self._request("write")
                else:
                    self._request("read")
            return call(file, mode, *arguments, **options)

        return opening

    def _slept(self, call: Callable[[float], None]) -> Callable[[float], None]:
        def slept(seconds: float) -> None:
            if threading.get_ident() in self._programs:
                self.sleep(seconds)
            else:
                call(seconds)

        return slept

    def _clock(self, call: Callable[[], float]) -> Callable[[], float]:
        def clock() -> float:
            me = self._programs.get(threading.get_ident())
            return call() if me is None else me.now

        return clock


class _Program:
    """A program's thread: its clock, and the lock that gives it its turn."""

    def __init__(self, number: int) -> None:
        self.number, self.now = number, 0.0
        self.turn = threading.Semaphore(0)
        self.together = 1


class _Pool:
    """Stands in for a program's threads: makes requests in turn; several cross the network at once."""

    def __init__(self, program: _Program, threads: int) -> None:
        self._program, self._threads = program, threads

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.together = 1

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Yield the result of the work for every item."""
        self._program.together = min(self._threads, len(items))
        yield from map(work, items)
