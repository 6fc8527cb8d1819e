"""The printed book: what is in the PDF, what is not, and the errors if it cannot be made."""

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter
from support.warm_pages import pages_built_warm

from experiments.paths import BOOK
from experiments.publishing import chromium as installed
from experiments.publishing import pdf
from experiments.publishing.build import BuildError
from experiments.publishing.places import Places

INDEX = r"""# A small book

It begins here, and goes on in {doc}`second`, where {eq}`eq-half` stands.
The function is {ref}`there <api-lpc-x>`.

$$\frac{a}{b} + \sum_{i=1}^{n} z_i$$ (eq-half)

:::{admonition} Folded on a screen
:class: dropdown
Opened on paper.
:::
"""
SECOND = r"""# The second chapter

It looks back at {doc}`index` and at $\gamma \le \mathrm{half}$.

## A section of the second

The end.

<div style="height: 195mm"></div>

It leads in:

| a | b |
|---|---|
"""
SECOND += "| short | row |\n" * 8 + "\nIt goes on:\n\n| c | d |\n|---|---|\n" + "| long | row |\n" * 90
REFERENCE = """(api-lpc-x)=
# Reference of x

Too long for paper.
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    try:
        return installed.find_chromium()
    except installed.ChromiumError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    root = tmp_path_factory.mktemp("book")
    sources = root / "book"
    (sources / "_static").mkdir(parents=True)
    for style in (BOOK / "_static").glob("*.css"):
        (sources / "_static" / style.name).write_text(style.read_text())
    (sources / "references.bib").write_text("")
    for name, text in {"index": INDEX, "second": SECOND, "api-lpc": REFERENCE}.items():
        (sources / f"{name}.md").write_text(text)
    chapters = "chapters:\n  - file: second\n  - file: api-lpc\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: index\n{chapters}")
    return Places(sources=sources, toc=root / "_toc.yml", output=root / "build")


@pytest.fixture(scope="module")
def printed(places, chromium) -> PdfReader:
    made = places.output / pdf.NAME
    with pages_built_warm():
        assert pdf.write({}, places) == made
    assert [path.name for path in places.output.iterdir()] == [pdf.NAME]
    return PdfReader(made)


def outline(entries) -> list[str]:
    return [
        title
        for entry in entries
        for title in (outline(entry) if isinstance(entry, list) else [str(entry.title)])
    ]


def test_every_chapter_is_printed_on_pages_of_its_own_and_the_reference_is_not(printed):
    texts = [page.extract_text() for page in printed.pages]
    first = next(index for index, text in enumerate(texts) if "It begins here" in text)
    second = next(index for index, text in enumerate(texts) if "It looks back" in text)
    assert first < second
    assert not any("Too long for paper" in text or "Reference of x" in text for text in texts)
    assert "function is there" in texts[first].replace("\n", " ")
    assert any("Opened on paper" in text for text in texts)
    assert str(second + 1) in texts[second].splitlines()  # the page's number


def test_what_leads_in_stands_above_its_table_and_only_long_tables_are_torn(printed):
    texts = [page.extract_text() for page in printed.pages]
    (led,) = [text for text in texts if "It leads in" in text]
    assert led.count("short") == 8 and "The end" not in led
    assert "It goes on" in led and 0 < led.count("long") < 90
    assert not any(text.strip().isdigit() for text in texts), "nothing but a number on a page"


def test_formulas_are_typeset(printed):
    text = "".join(page.extract_text() for page in printed.pages)
    assert "\\" not in text
    assert "∑" in text
    assert "γ" in text or "𝛾" in text


def test_outline_and_links_within(printed):
    titles = outline(printed.outline)
    assert [title for title in titles if "second" in title] == [
        "The second chapter",
        "A section of the second",
    ]
    links = [link.get_object() for page in printed.pages for link in page.get("/Annots") or []]
    assert sum("/Dest" in link for link in links) >= 3
    assert not any("file:" in str(link) for link in links)


def test_page_printed_before_its_formulas_are_typeset(tmp_path, chromium):
    page = tmp_path / "page.html"
    page.write_text(pdf.printable("<html><body><div class='math'>$x$</div></body></html>"))
    pdf.print_page(page, tmp_path / "fine.pdf", chromium=chromium)  # nothing there to typeset
    page.write_text(
        page.read_text().replace("class='math'", "").replace('class="math"', 'class="math notranslate"')
    )
    with pytest.raises(BuildError, match="0 formulas typeset; expected 1"):
        pdf.print_page(page, tmp_path / "raw.pdf", chromium=chromium)


@pytest.mark.parametrize(("body", "times"), [("", 0), ("<p id='x'></p><p id='x'></p>", 2)])
def test_links_that_lead_nowhere_or_to_two_places(body, times):
    with pytest.raises(BuildError, match=f"#x \\(in 'here'\\) has {times} targets"):
        pdf.printable(f"<article><a href='#x'>here</a>{body}</article>")


@pytest.mark.parametrize("name", ["api-x", "api"])
def test_reference_pages_and_their_list_go_with_the_links_into_them(name):
    page = (
        "<div id='jb-print-docs-body'><ul><li class='toctree-l1'>"
        f"<a href='#document-{name}'>x</a><ul><li><a href='#f'>f</a></li></ul></li></ul></div>"
        f"<article><p><a href='#f'>f</a></p><span id='document-{name}'></span><section id='x'>"
        "<p id='f'>long</p></section><span id='document-apiary'></span><section id='y'>stays</section>"
        "</article>"
    )
    printable = pdf.printable(page)
    assert "long" not in printable and "toctree-l1" not in printable and "href" not in printable
    assert "<p>f</p>" in printable and "stays" in printable


def test_links_to_pages_lead_to_chapters_and_links_to_files_go():
    page = (
        "<article><a href='second.html'>a</a><a href='second.html#end'>b</a><a href='table.csv'>c</a>"
        "<a href='https://example.org/x.html'>d</a><span id='document-second'></span><p id='end'></p>"
        "</article>"
    )
    links = re.findall('href="([^"]*)"', pdf.printable(page))
    assert links == ["#document-second", "#end", "https://example.org/x.html"]


def test_outline_has_each_heading_once(tmp_path):
    page = "<h1>Noise</h1><h2>What it says (here)</h2><h3>bonbon</h3><h2>Peter’s</h2>"
    titles = ["NoiseNoise", "What it says (here)says (here)", "bonbon", "abab", "Peter’sPeter’s"]
    writer, path = PdfWriter(), tmp_path / "x.pdf"
    writer.add_blank_page(width=100, height=100)
    first = writer.add_outline_item(title=titles[0], page_number=0)
    for title in titles[1:]:
        writer.add_outline_item(title=title, page_number=0, parent=first)
    writer.write(path)
    before = path.read_bytes()
    pdf.mend_outline(path, page)
    # the last but one is no heading of the page, the one before is one as it is
    assert outline(PdfReader(path).outline) == ["Noise", "What it says (here)", "bonbon", "abab", "Peter’s"]
    assert path.read_bytes().startswith(before), "only what is changed is written again"


def program(folder: Path, text: str) -> str:
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_no_chromium(monkeypatch, tmp_path, places):
    monkeypatch.delenv(installed.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installed, "APPLICATIONS", (tmp_path / "none",))
    with pytest.raises(
        installed.ChromiumError,
        match=f"(?s)searched the PATH for chromium, .*Install one.*{installed.VARIABLE}",
    ):
        pdf.write({}, replace(places, output=tmp_path / "build"))
    assert not (tmp_path / "build").exists()
    monkeypatch.setenv(installed.VARIABLE, "/nowhere/chrome")
    with pytest.raises(
        installed.ChromiumError, match="LPC_CHROMIUM is '/nowhere/chrome', which is not a program"
    ):
        installed.find_chromium()
    monkeypatch.setenv(installed.VARIABLE, program(tmp_path, "exit 0"))
    assert installed.find_chromium() == os.environ[installed.VARIABLE]


def test_chromium_that_fails_or_never_ends(monkeypatch, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html></html>")
    with pytest.raises(BuildError, match=r"(?s)ended with 3 and printed no PDF:.*no display"):
        pdf.print_page(page, tmp_path / "x.pdf", chromium=program(tmp_path, "echo no display >&2; exit 3"))
    monkeypatch.setattr(pdf, "PATIENCE", 0.2)
    with pytest.raises(BuildError, match=r"within 0\.2 s"):
        pdf.print_page(page, tmp_path / "x.pdf", chromium=program(tmp_path, "exec sleep 5"))
