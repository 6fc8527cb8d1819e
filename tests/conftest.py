"""Checks the shapes in every signature of `lpc` over the whole test suite."""

import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import support.typecheck
from support.cpu_seconds import CpuSeconds

# Before torch is loaded: on tensors as small as the tests' threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
jaxtyping.install_import_hook("lpc", f"{support.typecheck.__name__}.checked")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuSeconds(config))


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
