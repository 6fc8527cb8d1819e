"""Number of threads of a measurement or a training step: one, unless its work is large enough for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

R = TypeVar("R")

LEAST_WORK = 1 << 25
"""Multiply-adds from which an operation is worth a second thread: some milliseconds of one core."""
PER_ENTRY = 8
"""Multiply-adds of a matrix product that take as long as one entry of another operation."""
_SHARED = PER_ENTRY * 32768  # less is not shared among threads by torch


class _Here(threading.local):
    """The number of threads that the caller of the outermost measurement had set, in this thread."""

    callers: int | None = None


_here = _Here()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, except inside :func:`threads_for` large work; then as before.

    A parallel region ends when its last thread does. If another program has taken the core of one thread, the
    others spin until it returns, and a measurement of thousands of small regions takes ten to a hundred
    times as long as on one thread.

    Notes
    -----
    The caller's number of threads is restored at the end, also after an exception; contexts may be nested.
    Switching takes a tenth of a microsecond. With torch's usual backend, OpenMP, the number belongs to the
    calling thread: other threads that have used torch keep theirs. One that first uses torch while a
    measurement runs starts with one thread, as the last number that was set is what new threads get.
    """
    before, callers = torch.get_num_threads(), _here.callers
    if callers is None:
        _here.callers = before
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        _here.callers = callers
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def threads_for(work: float) -> Iterator[int]:
    """Compute a large operation on all of the caller's threads, a small one on a single thread.

    Parameters
    ----------
    work
        Multiply-adds of the operation, or of each of several operations.

    Yields
    ------
    int
        Number of threads in use. Outside of :func:`one_thread` the setting is left alone.
    """
    before = torch.get_num_threads()
    wanted = before
    if _here.callers is not None:
        wanted = _here.callers if work >= LEAST_WORK else 1
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def callers_threads() -> int:
    """Return the number of threads that the caller allows: its setting at the outermost measurement."""
    return _here.callers or torch.get_num_threads()


def by_work(function: Callable[..., R], *, size: Callable[[Any], int] = len) -> Callable[..., R]:
    """Return a function, such as a network, that chooses its number of threads by the amount of work.

    The operations of its first call are counted; all threads of the caller's are used where those that torch
    shares among threads are large on average. The choice stays after a call, for the backward pass, until
    :func:`one_thread` ends; outside of it, and away from the CPU, nothing is counted or chosen.

    Parameters
    ----------
    function
        Function whose work is proportional to ``size`` of its first argument.
    size
        Measure of the first argument; by default its length, the number of images.
    """
    each: list[float] = []

    def called(first: Any, *args: Any, **kwargs: Any) -> R:
        many = _here.callers is not None and _here.callers > 1
        if not many or (isinstance(first, Tensor) and first.device.type != "cpu"):
            return function(first, *args, **kwargs)
        if not each:
            torch.set_num_threads(1)
            with _Work() as counted:
                result = function(first, *args, **kwargs)
            each.append(counted.mean() / max(1, size(first)))
        else:
            _choose(each[0] * size(first))
            result = function(first, *args, **kwargs)
        _choose(each[0] * size(first))
        return result

    called.__wrapped__ = function  # type: ignore[attr-defined]
    return called


def _choose(work: float) -> None:
    torch.set_num_threads(callers_threads() if work >= LEAST_WORK else 1)


class _Work(TorchDispatchMode):
    """Counts the work of operations that torch shares among threads."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[float] = []

    def mean(self) -> float:
        """Return the mean work of those operations, in multiply-adds."""
        return sum(self.shared) / len(self.shared) if self.shared else 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in flop_registry:
            work = flop_registry[packet](*args, **(kwargs or {}), out_val=result) / 2
        elif func.is_view:
            work = 0
        else:
            work = PER_ENTRY * sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        if work >= _SHARED:
            self.shared.append(work)
        return result
