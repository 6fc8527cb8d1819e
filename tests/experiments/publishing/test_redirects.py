"""Old addresses of pages lead to where their text is now."""

import re

import pytest

from experiments.publishing.places import PLACES
from experiments.publishing.redirects import TABLE, read, write


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "new.html").write_text('<section id="part"><h2>Part</h2></section><h2 id=bare>Bare</h2>')
    return tmp_path


def test_an_old_address_has_a_page_that_leads_to_the_new_one(pages):
    write(pages, {"old": "new", "older": "new#part", "oldest": "new#bare"})
    for name, address in {"old": "new.html", "older": "new.html#part", "oldest": "new.html#bare"}.items():
        text = (pages / f"{name}.html").read_text()
        assert f'http-equiv="refresh" content="0; url={address}"' in text
        assert re.findall('<a href="(.*?)"', text) == [address]


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        ({"new": "new"}, f"{TABLE}, new: the book has a page of this name"),
        ({"old": "gone"}, f"{TABLE}, old = 'gone': the book has no page gone"),
        ({"old": "new#whole"}, f"{TABLE}, old = 'new#whole': page new has no heading whole"),
    ],
)
def test_what_leads_nowhere_is_named_and_nothing_is_written(pages, moved, message):
    with pytest.raises(ValueError, match=message):
        write(pages, {"older": "new", **moved})
    assert [path.name for path in pages.glob("*.html")] == ["new.html"]


def test_among_some_pages_only_their_old_addresses_are_written(pages):
    write(pages, {"old": "new", "lost": "gone"}, whole=False)
    assert sorted(path.stem for path in pages.glob("*.html")) == ["new", "old"]


def test_merged_chapters_are_in_the_table():
    moved = read(PLACES.sources)
    assert {"attacks", "certified", "factor"} <= set(moved) and not set(moved) & set(PLACES.page_names())
    places = {place.partition("#")[0] for place in moved.values()}
    assert {one for one in places if not one.startswith("api-")} <= set(PLACES.page_names())
    assert read(PLACES.sources / "_static") == {}
