"""A headless browser and the built book, for `make browse`; a plain `pytest` does not collect these tests."""

from collections.abc import Iterator
from os import environ
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from experiments.publishing import redirects
from experiments.publishing.chromium import ChromiumError, find_chromium

ROOT = Path(__file__).parents[2]
STAYS_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""Nothing leaves the machine: no other host has an address."""
BOOK = Path(environ.get("LPC_BOOK", ROOT / "build" / "html"))

MOVED = redirects.read(ROOT / "book")
"""Old addresses, whose pages only lead on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a page are made for every page of the book, or for those that a mark names."""
    if "page_name" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("pages")
        names = marked.args if marked else sorted({path.stem for path in BOOK.glob("*.html")} - set(MOVED))
        pages = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]  # opened once
        metafunc.parametrize("page_name", pages, scope="module")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a page follow each other, in the order in which they are written: it is opened once."""
    items.sort(key=lambda item: getattr(getattr(item, "callspec", None), "params", {}).get("page_name", ""))


def pytest_sessionstart() -> None:
    if not (BOOK / "index.html").exists():
        pytest.exit(f"no book is built in {BOOK}: it has no index.html; make book first", returncode=2)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        given = find_chromium()
    except ChromiumError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=given, args=["--no-sandbox", STAYS_HERE])
        yield started
        started.close()


@pytest.fixture(scope="session")
def book() -> Path:
    return BOOK
