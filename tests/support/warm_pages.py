"""Runs Sphinx in processes that have it loaded already, for tests that build pages."""

import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import warm

from experiments.publishing import build


def _run(command: list[str], *, env: Mapping[str, str], **_: object) -> subprocess.CompletedProcess[str]:
    assert command[:2] == [sys.executable, "-c"]
    return warm.run(*command[1:], cwd=Path.cwd(), env=env)


@contextmanager
def pages_built_warm() -> Iterator[None]:
    """Run what builds pages as :func:`support.warm.run` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "subprocess", types.SimpleNamespace(run=_run))
        yield


@pytest.fixture
def warm_pages() -> Iterator[None]:
    """Run what builds pages as :func:`support.warm.run` does, for a test.

    ``from support.warm_pages import warm_pages as warm_pages`` makes it known to a file.
    """
    with pages_built_warm():
        yield
