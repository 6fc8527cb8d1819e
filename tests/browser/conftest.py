"""A browser without a window and the built book: `make browse`. Not collected by a plain `pytest`."""

from collections.abc import Iterator
from os import environ
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from experiments.publishing.build import BuildError
from experiments.publishing.pdf import find_chromium

ROOT = Path(__file__).parents[2]
BOOK = Path(environ.get("LPC_BOOK", ROOT / "build" / "html"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a page are made for every page of the book."""
    if "page_name" in metafunc.fixturenames:
        names = sorted(path.stem for path in BOOK.glob("*.html"))
        pages = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]  # opened once
        metafunc.parametrize("page_name", pages, scope="module")


def pytest_sessionstart() -> None:
    if not (BOOK / "index.html").exists():
        pytest.exit(f"no book is built in {BOOK}: it has no index.html; make book first", returncode=2)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        given = find_chromium()
    except BuildError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=given, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def book() -> Path:
    return BOOK
