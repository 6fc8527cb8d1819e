"""Signals to stop: training ends its epoch, writes its checkpoint and leaves."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What asks training to stop: Ctrl-C, a scheduler's end of time, its warning before that."""


class Stopped(RuntimeError):
    """Training was asked to stop and has written its checkpoint; the same call goes on from there."""


@contextmanager
def stop_on_signal(after: str = "this epoch") -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal has asked to stop; a second signal acts as usual.

    Outside the main thread, where no signal can be caught, the answer is always no.

    Parameters
    ----------
    after
        What is ended first, as the user is told.
    """
    asked: list[str] = []
    usual: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(signal.Signals(number).name)
        print(f"\n{asked[0]}: stopping after {after}; once more stops at once", file=sys.stderr)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            usual[number] = signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        restore()


def leave_signals_to_parent() -> None:
    """Ignore the signals in a worker process: the one that began it decides, and tells it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
