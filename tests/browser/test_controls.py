"""Pages broken on purpose: each check finds what is wrong with them, and finds nothing on a sound page."""

from collections.abc import Callable
from pathlib import Path

import pytest
from browser.reading import barriers, clipped, empty_files, images, maths, opened, paper, weight
from playwright.sync_api import Browser, Page

SOUND = '<h1>A page</h1><p>Words.</p><img alt="a grey square" src="grey.svg" width="40" height="40">'


def written(folder: Path, body: str) -> str:
    (folder / "grey.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
    )
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title></head>'
        f"<body><main>{body}</main></body></html>"
    )
    return page.as_uri()


@pytest.mark.parametrize(
    ("body", "check", "told"),
    [
        pytest.param('<span class="math">\\(x\\)</span>', maths, "not typeset", id="formula without MathJax"),
        pytest.param("<p>so $$x$$ stays</p>", maths, "raw", id="formula in the text"),
        pytest.param(
            "<mjx-container><mjx-merror>?</mjx-merror></mjx-container>", maths, "error", id="bad TeX"
        ),
        pytest.param('<img alt="a grey square" src="gone.svg">', images, "not loaded", id="image gone"),
        pytest.param('<img alt="" src="grey.svg">', images, "alt of fewer", id="image untold"),
        pytest.param('<div style="width: 3000px">wide</div>', clipped, "the page is", id="page scrolls"),
        pytest.param(
            f'<pre style="overflow: hidden; width: 90px">{"w" * 99}</pre>',
            clipped,
            "cut off",
            id="code cut off",
        ),
        pytest.param(
            f'<div style="overflow-x: auto; width: 90px" tabindex="-1"><p>{"w" * 99}</p></div>',
            clipped,
            "not by keyboard",
            id="box without keyboard",
        ),
        pytest.param(
            '<div class="cell_output"><img alt="a grey square" src="grey.svg"></div>',
            paper,
            "white paper",
            id="figure on nothing",
        ),
        pytest.param('<p style="color: #999">pale</p>', barriers, "color-contrast", id="pale words"),
        pytest.param(
            '<p><b>dark</b> <b>dark</b> <b style="color: #999">pale</b></p>',
            barriers,
            ">pale<",
            id="pale word among others",
        ),
        pytest.param("<button></button>", barriers, "button-name", id="button without a name"),
        pytest.param('<a href="gone.csv">table</a>', empty_files, "missing", id="file gone"),
        pytest.param(
            '<a href="page.html.png">figure</a>', empty_files, "not .png", id="file of another kind"
        ),
    ],
)
def test_what_is_broken_is_told(
    browser: Browser, tmp_path: Path, body: str, check: Callable[[Page], list[str]], told: str
) -> None:
    (tmp_path / "page.html.png").write_text("no picture")
    with opened(browser, written(tmp_path, SOUND + body)) as found:
        assert any(told in line for line in check(found.page)), check(found.page)


def test_of_a_sound_page_nothing_is_told(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, written(tmp_path, SOUND)) as found:
        page = found.page
        assert not [
            *maths(page),
            *images(page),
            *clipped(page),
            *paper(page),
            *barriers(page),
            *empty_files(page),
        ]
        assert not found.wrong
        assert weight(found.requests) == sum(
            (tmp_path / name).stat().st_size for name in ("page.html", "grey.svg")
        )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('<script>throw new Error("torn")</script>', "torn"),
        ('<script>console.error("worn")</script>', "worn"),
        ('<script src="gone.js"></script>', "failed"),
        ('<img alt="a far square" src="https://example.org/far.png">', "leaves the machine"),
    ],
)
def test_what_goes_wrong_while_loading_is_told(
    browser: Browser, tmp_path: Path, body: str, told: str
) -> None:
    with opened(browser, written(tmp_path, SOUND + body)) as found:
        found.page.wait_for_load_state("networkidle")
        assert any(told in line for line in found.wrong), found.wrong
