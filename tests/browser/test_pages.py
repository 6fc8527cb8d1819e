"""Every page of the built book as its reader sees it: from a file, at two widths, in light and dark mode."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from browser.reading import (
    NARROW,
    Opened,
    barriers,
    clipped,
    empty_files,
    images,
    maths,
    opened,
    paper,
    tiny,
    weight,
)
from playwright.sync_api import Browser

from experiments.publishing.minify import LIMIT

KINDS = ["index", "theory", "robustness", "errata", "cluster", "search"]


def is_reference(name: str) -> bool:
    return name.startswith("api-")


@pytest.fixture(scope="module")
def wide(browser: Browser, book: Path, page_name: str) -> Iterator[Opened]:
    with opened(browser, (book / f"{page_name}.html").as_uri()) as found:
        yield found


def test_it_loads_whole_from_files_of_its_own(wide: Opened) -> None:
    assert not wide.wrong


def test_its_formulas_are_typeset(wide: Opened) -> None:
    assert not maths(wide.page)


def test_its_images_are_there_and_told_in_words_on_white_paper(wide: Opened) -> None:
    assert not images(wide.page) + paper(wide.page)


def test_no_warning_names_a_folder_of_the_machine_that_made_it(wide: Opened) -> None:
    assert "site-packages" not in wide.page.inner_text("main")


def test_its_files_are_there(wide: Opened) -> None:
    assert not empty_files(wide.page)


def test_it_weighs_less_than_the_limit(wide: Opened) -> None:
    assert weight(wide.requests) < LIMIT


def test_nothing_is_cut_off_on_a_wide_screen(wide: Opened) -> None:
    assert not clipped(wide.page)


def test_it_has_no_barrier(wide: Opened) -> None:
    assert not barriers(wide.page)


def test_its_title_language_and_headings_are_in_order(wide: Opened) -> None:
    told = wide.page.evaluate("""() => ({
      language: document.documentElement.lang,
      mains: document.querySelectorAll("main").length,
      levels: [...document.querySelectorAll("main article :is(h1, h2, h3, h4)")]
        .map(heading => Number(heading.tagName[1])),
    })""")
    assert told["language"] == "en" and told["mains"] == 1 and wide.page.title()
    levels = told["levels"]
    assert levels.count(1) == 1 or not levels
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels


@pytest.mark.pages(*KINDS)
def test_the_keyboard_reaches_a_page_in_order_and_shows_where_it_is(wide: Opened) -> None:
    places = []
    for _ in range(90):
        wide.page.keyboard.press("Tab")
        place = wide.page.evaluate("""() => {
          const at = document.activeElement, style = getComputedStyle(at);
          const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
                       || style.boxShadow !== "none";
          const where = at.closest("#pst-skip-link, .skip-link") ? "skip"
            : at.closest(".search-button-field, .search-button, .bd-search") ? "search"
            : at.closest("#pst-primary-sidebar, .bd-sidebar-primary") ? "sidebar"
            : at.closest("main") ? "content" : "other";
          return [where, seen, at.outerHTML.slice(0, 100)];
        }""")
        places.append(place)
        if place[0] == "content":
            break
    kinds = list(dict.fromkeys(place[0] for place in places if place[0] != "other"))
    assert kinds[0] == "skip" and kinds[-1] == "content"
    assert {"search", "sidebar"} <= set(kinds)
    assert not [place for place in places if not place[1]]


@pytest.mark.pages(*KINDS[:3])
def test_on_paper_stands_the_text_alone(wide: Opened) -> None:
    wide.page.emulate_media(media="print")
    try:
        for box in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".downloads"):
            boxes = wide.page.locator(box)
            assert not any(boxes.nth(at).is_visible() for at in range(boxes.count())), box
        headings = wide.page.locator("main h1")
        assert any(headings.nth(at).is_visible() for at in range(headings.count()))
    finally:
        wide.page.emulate_media(media="null")


@pytest.mark.pages(*KINDS)
def test_the_theme_can_be_switched(wide: Opened) -> None:
    theme, seen = "document.documentElement.dataset.theme", []
    for _ in range(3):
        wide.page.locator("button.theme-switch-button").first.press("Enter")
        seen.append(wide.page.evaluate(theme))
    assert set(seen) == {"light", "dark"}


def test_nothing_is_cut_off_on_a_telephone_in_the_dark(browser: Browser, book: Path, page_name: str) -> None:
    if is_reference(page_name):
        pytest.skip("pages of the reference are of one make: they are read at one width")
    with opened(browser, (book / f"{page_name}.html").as_uri(), width=NARROW, theme="dark") as found:
        assert found.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not clipped(found.page) + paper(found.page) + tiny(found.page)
        assert not barriers(found.page, only=("color-contrast", "scrollable-region-focusable"))


def test_the_sidebar_opens_by_keyboard_on_a_telephone(browser: Browser, book: Path) -> None:
    with opened(browser, (book / "index.html").as_uri(), width=NARROW) as found:
        link = found.page.locator(".bd-sidebar-primary a.reference, dialog a.reference").first
        assert not link.is_visible()
        found.page.locator("button.primary-toggle:visible").first.press("Enter")
        link.wait_for(state="visible", timeout=30_000)
        found.page.keyboard.press("Escape")
        link.wait_for(state="hidden", timeout=30_000)


def test_search_finds_deepfool(browser: Browser, book: Path) -> None:
    with opened(browser, (book / "search.html").as_uri() + "?q=DeepFool") as found:
        found.page.wait_for_selector("#search-results li a", timeout=60_000)
        found.page.wait_for_function(
            "/found|matching/.test(document.querySelector('.search-summary').textContent)"
        )
        links = found.page.locator("#search-results li a").evaluate_all("all => all.map(link => link.href)")
        assert not found.wrong
    names = {link.rsplit("/", 1)[1].split(".html")[0] for link in links}
    assert "robustness" in names
    assert any(name == "api" or is_reference(name) for name in names), names


@pytest.mark.parametrize("name", KINDS[:3])
def test_it_reads_without_scripts(browser: Browser, book: Path, name: str) -> None:
    with opened(browser, (book / f"{name}.html").as_uri(), script=False) as found:
        assert found.page.locator("main article h1").first.is_visible()
        shown = found.page.locator("main article .cell_output :is(table, img):visible").count()
        assert shown > 0


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/favicon.ico":  # browsers ask every server for it, whatever the page says
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("name", KINDS)
def test_it_loads_from_a_server_too(browser: Browser, book: Path, name: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with opened(browser, f"http://127.0.0.1:{server.server_port}/{name}.html") as found:
            assert not found.wrong + maths(found.page) + images(found.page)
    finally:
        server.shutdown()
        server.server_close()
