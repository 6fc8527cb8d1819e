"""Print the book: executed chapters -> one strictly built page -> headless Chromium -> one PDF."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from bs4 import BeautifulSoup, Tag
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

from experiments.publishing.build import BuildError, run_sphinx, stage
from experiments.publishing.chromium import find_chromium
from experiments.publishing.places import PLACES, Places
from lpc.store.writers import folder_prefix

NAME = "latent-point-collapse.pdf"
LEFT_OUT = re.compile("^document-api(-|$)")
"""Marks of the function reference's pages and of their list, which stay out of the PDF."""
PATIENCE = 600
"""Seconds of the page's own clock, which stands still while it loads and computes, and of real time."""
TYPESET = "formulas typeset:"


def printable(page: str) -> str:
    """Return the book's single page, ready to print.

    Reference pages are removed; so are links to them and to files beside the pages. The page reports on its
    console once formulas are typeset.

    Raises
    ------
    BuildError
        If a link within the book has no target, or two.
    """
    soup = BeautifulSoup(page, "html.parser")
    everything = {str(tag["id"]) for tag in soup.find_all(id=True)}
    for mark in soup.find_all(id=LEFT_OUT):
        section = mark.find_next_sibling("section")
        mark.decompose()
        if isinstance(section, Tag):
            section.decompose()
    for script in soup.select("script[src*='explore']"):
        script.decompose()  # the figure beside it shows the same
    for link in soup.select("a[role='doc-backlink']"):
        link.unwrap()  # it leads to a page's first citation, by an id that other pages also have
    article = soup.find("article")
    if isinstance(article, Tag):
        article.insert(
            0, soup.new_tag("span", id="document-index")
        )  # Sphinx gives one to every page except the first
    for link in soup.select("a[href]"):
        page_of = re.fullmatch(r"([\w-]+)\.html(?:#(.+))?", str(link["href"]))
        if page_of:  # a link in a table that a cell made, which Sphinx does not know
            link["href"] = f"#{page_of[2] or f'document-{page_of[1]}'}"
        elif not re.match(r"#|https?:|mailto:", str(link["href"])):
            link.unwrap()  # it leads to a file beside the pages
    ids = Counter(str(tag["id"]) for tag in soup.find_all(id=True))
    wrong = []
    for link in soup.select("article a[href^='#'], #jb-print-docs-body a[href^='#']"):
        if link.decomposed:
            continue  # it was removed with its entry
        target = str(link["href"])[1:]
        if target in everything and target not in ids:
            entry = link.find_parent("li", class_="toctree-l1")  # a whole entry of the contents goes
            entry.decompose() if entry else link.unwrap()
        elif target and ids[target] != 1 and "headerlink" not in link.get_attribute_list("class"):
            wrong.append(f"#{target} (in {link.get_text()!r}) has {ids[target]} targets")
    if wrong:
        raise BuildError("links of the PDF lead nowhere, or to two places:\n" + "\n".join(wrong))
    for details in soup.find_all("details"):
        details["open"] = ""
    ready = soup.new_tag("script")
    ready.string = (
        "window.addEventListener('load', () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then("
        f"() => console.log('{TYPESET}', document.querySelectorAll('mjx-container').length)));"
    )
    soup.body.append(ready) if soup.body else None
    return str(soup)


def print_page(page: Path, target: Path, *, chromium: str) -> None:
    """Print a page on disk with headless Chromium, once its formulas are typeset.

    Parameters
    ----------
    page
        Page from :func:`printable`, beside its styles, scripts and images.
    target
        Path of the PDF.
    chromium
        Path of the Chromium program.

    Raises
    ------
    BuildError
        If Chromium failed, took too long, wrote nothing, or printed before the formulas were typeset.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",  # containers have no sandbox; the page is our own
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={PATIENCE * 1000}",
            "--enable-logging=stderr",
            "--generate-pdf-document-outline",
            "--no-pdf-header-footer",
            f"--print-to-pdf={target}",
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{chromium} did not print {page} within {PATIENCE} s") from None
    if done.returncode or not target.exists():
        said = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise BuildError(f"{chromium} ended with {done.returncode} and printed no PDF:\n{said}")
    wanted = page.read_text().count('class="math notranslate')
    told = re.search(rf"{TYPESET} (\d+)", done.stderr)
    if told is None or int(told[1]) < wanted:
        raise BuildError(
            f"{chromium} printed with {told[1] if told else 'no'} formulas typeset; expected {wanted} or more"
        )


def mend_outline(pdf: Path, page: str) -> None:
    """Correct a PDF's outline in place, so that it has the text of each heading once.

    If Chromium lays a heading out twice, before and after moving it to the next page, it repeats the text.

    Parameters
    ----------
    pdf
        PDF written by :func:`print_page`.
    page
        Printed page, for its headings.
    """
    soup = BeautifulSoup(page, "html.parser")
    headings = {_letters(tag.get_text()) for tag in soup.find_all(re.compile("^h[1-6]$"))}
    writer = PdfWriter(pdf, incremental=True)
    todo = [writer.root_object.get("/Outlines")]
    while todo:
        entry = todo.pop()
        if entry is None:
            continue
        found = cast(DictionaryObject, entry.get_object())
        todo += [found.get("/First"), found.get("/Next")]
        if "/Title" in found:
            found[NameObject("/Title")] = TextStringObject(_once(str(found["/Title"]), headings))
    writer.write(pdf)


def _once(title: str, headings: Collection[str]) -> str:
    """Return a title without the repeated part at its end, unless a heading itself repeats it."""
    for length in range(1, len(title) // 2 + 1):
        kept = title[:-length]
        if title[-length:] == kept[-length:] and _letters(kept) in headings:
            return kept
    return title


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text)


def write(substitutions: Mapping[str, Any], places: Places = PLACES) -> Path:
    """Print all pages except the reference as one PDF; if that fails, the previous one stays.

    Parameters
    ----------
    substitutions, places
        Arguments of :func:`experiments.publishing.build.stage`.

    Returns
    -------
    Path
        Path of the PDF, in the output folder.

    Raises
    ------
    BuildError
        If a chapter was not executed, Sphinx failed, a link is wrong, or Chromium is missing or failed.
    """
    chromium = find_chromium()
    places.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=places.output, prefix=folder_prefix("printing")) as folder:
        staged, printed = Path(folder) / "stage", Path(folder) / NAME
        stage(staged, substitutions, places)
        page = run_sphinx(staged, Path(folder) / "scratch", builder="singlehtml") / "index.html"
        page.write_text(printable(page.read_text()))
        print_page(page, printed, chromium=chromium)
        mend_outline(printed, page.read_text())
        return printed.replace(places.output / NAME)
