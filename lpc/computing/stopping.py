"""Reasons to stop: signals, on which training finishes its epoch, and output that lost its reader."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Signals that ask training to stop: Ctrl-C, a scheduler's end of time, its warning before that."""
STATUSES = frozenset(128 + number for number in SIGNALS)
"""Exit statuses of programs stopped by these signals, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
_last: int | None = None


class Stopped(RuntimeError):
    """Training was asked to stop and has written its checkpoint; the same call continues from there."""


def exit_status() -> int:
    """Return this program's exit status after a signal has stopped it; without a signal, that of Ctrl-C."""
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
        Description, for the user, of the work to finish before the program stops.
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
        print(f"\n{asked[0]}: stopping after {after}; repeat it to stop at once", file=sys.stderr)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            usual[number] = signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        restore()


def leave_signals_to_parent() -> None:
    """Ignore the signals in a worker process: its parent decides, and tells it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


UNREAD = 128 + 13
"""Exit status of a program whose output lost its reader, as shells give it for SIGPIPE."""


@contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End the program quietly, with :data:`UNREAD`, once nobody reads its output, as after ``| head``.

    A broken pipe elsewhere, such as a worker's, is an ordinary error.
    """
    output = sys.stdout
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        unread = [
            stream for stream in (sys.__stdout__, sys.__stderr__) if stream and _unread(stream.fileno())
        ]
        seen_by_click = sys.stdout is not output  # it puts another in its place, and exits with 1
        if not unread or not (isinstance(error, BrokenPipeError) or seen_by_click):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:  # what is still buffered goes there when Python ends
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(UNREAD) from None


def _unread(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return True
    found = select.poll()
    found.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in found.poll(0))
