"""A browser without a window and the built book: `make browse`. Not collected by a plain `pytest`."""

import shutil
from collections.abc import Iterator
from os import environ
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[2]
BOOK = Path(environ.get("LPC_BOOK", ROOT / "build" / "html"))
NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a page are made for every page of the book."""
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", sorted(path.stem for path in BOOK.glob("*.html")), scope="module")


def pytest_sessionstart() -> None:
    if not (BOOK / "index.html").exists():
        pytest.exit(f"no book is built in {BOOK}: it has no index.html; make book first", returncode=2)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    given = environ.get("LPC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if given is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path, and LPC_CHROMIUM names none")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=given, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def book() -> Path:
    return BOOK
