"""Checks of pages before they are built: they need alt texts, captions and verdicts, and no typed results.

:func:`experiments.publishing.build.stage` stops at a chapter that was not executed, and Sphinx, which runs
strictly, at dead links and unknown references in text. These checks find what neither of them sees, and
report all offences on all pages at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from experiments.publishing.checking import boxes, prose, typed_numbers
from experiments.publishing.checking.cell_html import Html, cell_name, html_of
from experiments.publishing.checking.prose import PageProse
from experiments.publishing.checking.typed_numbers import REGISTER, Offence
from experiments.publishing.places import PLACES, Places
from experiments.reporting.claims import NOT_ATTEMPTED, NOT_JUDGED, NOT_MEASURED
from experiments.reporting.declarations import NO_RUN
from experiments.reporting.tables import MISSING
from experiments.reporting.verdicts import UNDECIDED, WORDS

VERDICTS = (*WORDS[True], *WORDS[False], UNDECIDED, NOT_ATTEMPTED, NOT_JUDGED, NOT_MEASURED)
"""The words that a verdict may be."""
LEAST_WORDS = 5
"""Smallest number of words in an alt text."""
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
_THE_SAME = "the same"


class CheckError(RuntimeError):
    """Pages are not fit to be built; the message has a line for each offence."""


def check(
    staged: Path, substitutions: Mapping[str, Any], places: Places = PLACES, *, whole: bool = True
) -> None:
    """Check the pages from which a book is about to be built.

    Parameters
    ----------
    staged
        Folder that Jupyter Book reads, with the executed notebooks.
    substitutions
        Substitutions, as for :func:`experiments.publishing.build.stage`; ``claims`` is the ledger.
    places
        Where the book's parts are.
    whole
        Whether it is the whole book. Then pages must discuss every claim of the ledger and contain every
        entry of the register, and the notebooks must have been executed from the present sources.

    Raises
    ------
    CheckError
        If a page breaks a rule. Each line of the message is one offence: page, line or cell, what was found,
        and what was expected.
    """
    pages = read_pages(places)
    notebooks = {
        name: nbformat.read(path, as_version=4)
        for name in places.page_names()
        if (path := staged / f"{name}.ipynb").exists()
    }
    ledger = substitutions.get("claims", {})
    found = [
        *source_offences(pages, substitutions, places, whole=whole),
        *_figures(notebooks, pages),
        *_tables(notebooks),
    ]
    if whole:
        found += _other_texts(notebooks, places)
        found += _dead_links(notebooks, staged)
        found += _verdicts(ledger, pages, notebooks, first=places.page_names()[0])
    if found:
        lines = "\n".join(f"  {one}" for one in found)
        raise CheckError(f"the pages are not fit to be built ({len(found)} offences):\n{lines}")


def read_pages(places: Places = PLACES) -> list[PageProse]:
    """Return the prose of all pages in the table of contents."""
    return [prose.read(places.source(name)) for name in places.page_names()]


def source_offences(
    pages: Sequence[PageProse],
    substitutions: Mapping[str, Any],
    places: Places = PLACES,
    *,
    whole: bool = True,
) -> Iterator[Offence]:
    """Yield the offences that sources show before execution: typed numbers, pictures, insertions, boxes."""
    yield from typed_numbers.check(pages, typed_numbers.read(places.sources / REGISTER), whole=whole)
    for page in pages:
        for picture in page.pictures:
            if wrong := _wrong_alt(picture.alt, ""):
                yield Offence(
                    f"{page.name}.md", f"line {picture.line}", f"image {picture.file} {wrong}", _ALT
                )
        yield from _insertions(page, substitutions)
        yield from boxes.check(page)
        for line, length in page.wide:
            told = f"code of {length} characters"
            yield Offence(
                f"{page.name}.md", f"line {line}", told, f"up to {prose.CODE_WIDTH}: it would scroll"
            )


def _insertions(page: PageProse, substitutions: Mapping[str, Any]) -> Iterator[Offence]:
    """Yield unknown substitutions, and measured values without their verdict on the page."""
    there = {text for _, text in page.inserted}
    for line, text in page.inserted:
        head, _, rest = text.partition(".")
        name, _, column = rest.partition(".")
        place = (f"{page.name}.md", f"line {line}")
        ledger = substitutions.get("claims", {})
        if head != "claims" and text not in substitutions:
            yield Offence(*place, f"{{{{ {text} }}}}", f"one of claims.ID.COLUMN, {', '.join(substitutions)}")
        elif head == "claims" and name not in ledger:
            yield Offence(*place, f"{{{{ {text} }}}}: no claim has this id", "an id of the ledger")
        elif head == "claims" and column not in ledger[name]:
            yield Offence(*place, f"{{{{ {text} }}}}", f"one of {', '.join(ledger[name])} after the id")
        elif column == "measured" and f"claims.{name}.verdict" not in there:
            yield Offence(
                *place, f"{{{{ {text} }}}} without its verdict", f"claims.{name}.verdict on this page"
            )


def _other_texts(notebooks: Mapping[str, Any], places: Places) -> Iterator[Offence]:
    """Yield pages whose source was edited after execution: they would show another text than is checked."""
    for name, notebook in notebooks.items():
        there = {cell.source.strip() for cell in notebook.cells}
        for cell in jupytext.read(places.source(name), fmt="md:myst").cells:
            if cell.source.strip() not in there and "parameters" not in cell.metadata.get("tags", []):
                first = cell.source.strip().splitlines()[0][:60]
                yield Offence(
                    f"{name}.md", f"at {first!r}", "executed from another text", "to be executed again"
                )
                break


# ------------------------------------------------------------------ figures
_ALT = f"an alt text of {LEAST_WORDS} words or more that says what the image shows, not the caption again"


def _wrong_alt(alt: str, caption: str) -> str:
    """Return what is wrong with an alt text; empty if nothing is."""
    words, told = (re.findall(r"\w+", text.lower()) for text in (alt, caption))
    if not words:
        return "has no alt text"
    if len(words) < LEAST_WORDS:
        return f"has the alt text {alt!r}"
    return "has its caption as alt text" if " ".join(words) in " ".join(told) else ""


def _figures(notebooks: Mapping[str, Any], pages: Sequence[PageProse]) -> Iterator[Offence]:
    names: dict[str, str] = {}
    for page in pages:
        for line, name in page.figures:
            if name in names:
                yield Offence(
                    f"{page.name}.md", f"line {line}", f"figure {name}", f"a name not taken by {names[name]}"
                )
            names.setdefault(name, f"{page.name}.md, line {line}")
    for page, notebook in notebooks.items():
        for number, cell in enumerate(notebook.cells):
            pictures = [out for out in cell.get("outputs", []) if set(_IMAGES) & set(out.get("data", {}))]
            if not pictures:
                continue
            described = cell.metadata.get("mystnb", {})
            figure, alt = described.get("figure", {}), described.get("image", {}).get("alt") or ""
            place = (f"{page}.ipynb", cell_name(number, cell))
            for key in ("name", "caption"):
                if not str(figure.get(key) or "").strip():
                    yield Offence(
                        *place, f"an image without {key}", f"mystnb: figure: {key} in the cell's header"
                    )
            if wrong := _wrong_alt(str(alt), str(figure.get("caption") or "")):
                yield Offence(*place, f"the image {wrong}", f"mystnb: image: alt, {_ALT}")
            if len(pictures) > 1:
                yield Offence(*place, f"{len(pictures)} images", "one: they would share caption and alt text")


# ------------------------------------------------------------------ tables
def _tables(notebooks: Mapping[str, Any]) -> Iterator[Offence]:
    for page, notebook in notebooks.items():
        for place, html in html_of(notebook):
            if not all(html.captions):
                yield Offence(f"{page}.ipynb", place, "a table without caption", "show(table, caption)")
            for tag in html.unnamed:
                yield Offence(
                    f"{page}.ipynb", place, f"<{tag}> has no alt text", "alt, aria-label or aria-hidden"
                )


def _dead_links(notebooks: Mapping[str, Any], staged: Path) -> Iterator[Offence]:
    """Yield links to missing pages in the HTML of cells, which Sphinx does not read."""
    there = {path.stem for path in staged.iterdir() if path.suffix in (".md", ".ipynb")}
    for page, notebook in notebooks.items():
        for place, html in html_of(notebook):
            for link in html.links:
                linked = re.fullmatch(r"(?:\./)?([\w-]+)\.html(?:#.*)?", link)
                if linked and linked[1] not in there | {"genindex", "search", "py-modindex"}:
                    yield Offence(f"{page}.ipynb", place, f"a dead link to {link}", "a page of the book")


# ------------------------------------------------------------------ verdicts
def _verdicts(
    ledger: Mapping[str, Any], pages: Sequence[PageProse], notebooks: Mapping[str, Any], *, first: str
) -> Iterator[Offence]:
    """Yield claims whose verdict no reader sees.

    The claim's chapter must show a verdict of its family (the claims that are ``like`` it), as a substitution
    or in a table. The claim itself must be shown there or on the first page, whose tables have most
    repetitions of claims on other data sets.
    """
    inserted = {page.name: {text for _, text in page.inserted} for page in pages}
    tables = {page: [html for _, html in html_of(notebook)] for page, notebook in notebooks.items()}
    families: dict[str, list[str]] = {}
    for name in ledger:
        families.setdefault(_root(name, ledger), []).append(name)
    for name, claim in ledger.items():
        place, page = ("claims.toml", f"claim {name}"), claim.get("chapter")
        if claim.get("verdict") not in VERDICTS:
            yield Offence(*place, f"the verdict {claim.get('verdict')!r}", f"one of {', '.join(VERDICTS)}")
        if page not in inserted:
            yield Offence(
                *place, f"chapter {page!r} is not a page of the book", f"one of {', '.join(inserted)}"
            )
            continue
        family = families[_root(name, ledger)]
        statements = {ledger[one].get("statement", "") for one in family}

        def shown(one: str, where: str, statements: set[str] = statements) -> bool:
            if f"claims.{one}.verdict" in inserted[where]:
                return True
            return any(_holds(table, ledger[one], statements) for table in tables.get(where, []))

        if not any(shown(one, page) for one in family):
            told = f"claims.{name}.verdict on the page, or a table of the ledger with it"
            yield Offence(f"{page}.md", f"claim {name}", "no verdict on the page of its chapter", told)
        elif not shown(name, page) and not shown(name, first):
            told = f"it in a table of {page} or of {first}, or claims.{name}.verdict there"
            yield Offence(*place, f"a verdict ({claim['verdict']}) that no page shows", told)


def _root(name: str, ledger: Mapping[str, Any]) -> str:
    """Return the first claim of a claim's family, or the claim itself if it has no family."""
    above = ledger[name].get("like", name)
    return name if above == name or above not in ledger else _root(above, ledger)


def _holds(table: Html, claim: Mapping[str, Any], statements: set[str]) -> bool:
    """Return whether a table has a row on a claim: with a statement of its family, and the claim's profile.

    The profile is named in brackets or as an item of a list. If profiles are columns, the claim's must not be
    empty. "The same" stands for the cell above.
    """
    wanted = "as printed" if claim.get("profile") == NO_RUN else str(claim.get("profile"))
    told = {" ".join(one.split()) for one in statements}
    for rows in table.rows:
        head, above = rows[0] if rows else [], [""]
        column = head.index(wanted) if wanted in head else None
        for row in rows[1:]:
            same = len(row) == len(above)
            row = [above[k] if cell == _THE_SAME and same else cell for k, cell in enumerate(row)]
            above = row
            if not any(one and one in cell for one in told for cell in row):
                continue
            if column is not None and column < len(row) and row[column] not in ("", MISSING):
                return True
            if any(f"({wanted})" in cell or wanted in cell.split("; ") for cell in row):
                return True
    return False
