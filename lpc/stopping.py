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
STATUSES = frozenset(128 + number for number in SIGNALS)
"""Exit statuses of programs that one of them stopped, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
_last: int | None = None


class Stopped(RuntimeError):
    """Training was asked to stop and has written its checkpoint; the same call goes on from there."""


def exit_status() -> int:
    """Return the exit status of this program once a signal has stopped it; that of Ctrl-C where none has."""
    return 128 + (signal.SIGINT if _last is None else _last)


def was_asked() -> bool:
    """Whether a signal has asked this process to stop at any time."""
    return _last is not None


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal as Python does Ctrl-C, and note which it was."""
    global _last
    del frame
    _last = number
    raise KeyboardInterrupt


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
        global _last
        del frame
        _last = number
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
