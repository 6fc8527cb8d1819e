"""Precision of losses and measurements: outside autocast, in at least float32, without rounding."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from lpc.computing.precision import exact_float32
from lpc.computing.threads import one_thread

P = ParamSpec("P")
R = TypeVar("R")


def autocasts() -> list[str]:
    """Return the types of device on which autocast is on."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = ("cpu",) if accelerator is None else ("cpu", accelerator.type)
    return [kind for kind in kinds if torch.is_autocast_enabled(kind)]


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Switch autocast off, on the CPU and on the accelerator, where it is on."""
    with ExitStack() as stack:
        for kind in autocasts():
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def measuring() -> Iterator[None]:
    """Compute as every measurement does: outside autocast, with float32 not rounded, and
    on one thread, but for what :func:`lpc.computing.threads.threads_for` finds large.

    For code that calls a network to measure it; :func:`measurement` does the same for a function.
    """
    with outside_autocast(), exact_float32(), one_thread():
        yield


def measurement(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of ``lpc.evaluation`` always compute inside :func:`measuring`.

    Parameters
    ----------
    function
        Function to wrap, possibly a generator function; it keeps its signature, docstring and annotations.
    """
    return _inside(measuring, function)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a loss compute outside autocast, with half-precision arguments in float32.

    For losses, which are also called where a training step is compiled, recorded or mapped over runs: nothing
    else of the process is touched. A backward pass belongs outside autocast, as torch advises.

    Parameters
    ----------
    function
        Function to wrap; it keeps its signature, docstring and annotations.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_at_least_single, args))
        kwargs = {name: _at_least_single(value) for name, value in kwargs.items()}
        if not autocasts():
            return function(*args, **kwargs)
        with outside_autocast():
            return function(*args, **kwargs)

    return _marked(called, "full_precision")


def _at_least_single(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # the output of a head
        return type(value)(*map(_at_least_single, value))
    return value


def _inside(context: Callable[[], AbstractContextManager[None]], function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that computes in a context; a generator does so only between its yields."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    @functools.wraps(function)
    def generated(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = cast("Generator[Any, Any, Any]", function(*args, **kwargs))
        sent = None
        try:
            while True:
                with context():
                    try:
                        value = steps.send(sent)
                    except StopIteration as end:
                        return end.value
                sent = yield value
        finally:
            steps.close()

    return _marked(generated if inspect.isgeneratorfunction(function) else called, context.__name__)


def _marked(function: Any, context: str) -> Any:
    """Let a function say in which context it computes."""
    function.numeric_context = context
    return function
