"""Checks the shapes in every signature of `lpc` over the whole test suite."""

import inspect
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import support.typecheck
from support.cpu_seconds import SLOW_KINDS, CpuSeconds

# Before torch is loaded: on tensors as small as the tests' threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
jaxtyping.install_import_hook("lpc", f"{support.typecheck.__name__}.checked")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuSeconds(config))


NUMBERS = re.compile(r"\b(approx|assert_close|allclose|isclose|assert_allclose|rtol|atol)\b")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marks that follow from the code: what a test starts, and whether its file has tolerances.

    Files with the most slow tests come first, so that none of them is left to one process at the end.
    """
    found: dict[Path, bool] = {}
    for item in items:
        if item.path not in found:
            found[item.path] = bool(NUMBERS.search(item.path.read_text()))
        named = {
            "numbers": found[item.path],
            "cluster": "one_node" in getattr(item, "fixturenames", ()),
            "browser": "browser" in item.path.parent.name,
        }
        for name in (name for name, own in named.items() if own):
            item.add_marker(name)
    slow = Counter(item.path for item in items if any(map(item.get_closest_marker, SLOW_KINDS)))
    items.sort(key=lambda item: -slow[item.path])


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
