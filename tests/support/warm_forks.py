"""Kernels and worker processes that are forks of one process in which the libraries are loaded, for tests.

Both would be programs of their own, which load the same libraries again: seconds each. What differs between a
program and such a fork (what it finds loaded, how it begins) is tested where it matters, without these.
"""

import multiprocessing
import types
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from experiments.publishing.executing import execution, forked_kernels


def _forking(way: str | None = None) -> BaseContext:
    """Return the context of processes that are forks of one with the libraries, whatever is asked for."""
    del way
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(forked_kernels.LIBRARIES))  # as kernels ask: there is one server
    return context


def fork_workers(patch: pytest.MonkeyPatch, module: Any) -> None:
    """Let a module's ``multiprocessing.get_context`` return a context of warm forks.

    They are as clean as spawned processes: they have their arguments pickled and import what they need.
    """
    patch.setattr(module, "multiprocessing", types.SimpleNamespace(get_context=_forking))


def fork_kernels(patch: pytest.MonkeyPatch) -> None:
    """Fork the kernels of chapters that are executed in this process."""
    own = execution.own_kernel
    patch.setattr(execution, "own_kernel", lambda threads, *, forked=False: own(threads, forked=True))


@pytest.fixture
def warm_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the kernels of chapters that are executed in this process, for a test.

    ``from support.warm_forks import warm_kernels as warm_kernels`` makes it known to a file.
    """
    fork_kernels(monkeypatch)
