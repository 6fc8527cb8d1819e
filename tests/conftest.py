"""Checks the shapes in every signature of `lpc` over the whole test suite."""

import gc
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import support.typecheck
from support.cpu_seconds import SLOW_KINDS, CpuSeconds, is_slow, recorded
from support.sources import compares, starts_python

gc.disable()  # until all is imported: what is imported stays, and there is no garbage to look for
# Before torch is loaded: on tensors as small as the tests', threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
support.typecheck.install("lpc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-seconds", action="store_true", help="Keep the CPU seconds of the tests of this run."
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuSeconds(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marks that follow from code and records: what a test starts, compares, and has taken.

    Files with the most slow tests come first, so that none of them is left to one process at the end.
    """
    seconds = recorded()
    for item in items:
        name = getattr(item, "originalname", item.name)
        named = {
            "numbers": compares(name, item.path),
            "slow": is_slow(item, seconds) or starts_python(name, item.path),
            "cluster": "one_node" in getattr(item, "fixturenames", ()),
            "browser": "browser" in item.path.parent.name,
        }
        for mark in (mark for mark, own in named.items() if own):
            item.add_marker(mark)
    slow = Counter(item.path for item in items if any(map(item.get_closest_marker, SLOW_KINDS)))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage again once all is collected; a process that only hands out tests collects none."""
    gc.freeze()  # nor are modules and collected tests looked through again while the tests run
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extensions that count their objects at the end report them as leaked


@pytest.fixture(scope="session")
def unchecked() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a function as users see it, without the shape checks that the test suite installs."""
    return inspect.unwrap


@pytest.fixture
def unhooked() -> Iterator[None]:
    """Switch the shape checks that the test suite installs off, in all functions: `lpc` as users see it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
