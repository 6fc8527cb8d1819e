"""Words that pages link to are in the glossary, and the other way round; the bibliography is complete."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pybtex.database import BibliographyData, parse_file, parse_string

from experiments.paths import BOOK
from experiments.publishing.places import PLACES
from experiments.reporting.claims import NOT_ATTEMPTED, NOT_JUDGED, NOT_MEASURED
from experiments.reporting.verdicts import WORDS
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import PROFILES, SIBLINGS, plain
from lpc.specs import VARIANTS

NOTATION = BOOK.joinpath("notation.md").read_text()


def glossary(text: str) -> list[tuple[list[str], str]]:
    """Return each entry's terms and its definition."""
    (body,) = re.findall(r"^```\{glossary\}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    entries = []
    for block in body.strip("\n").split("\n\n"):
        lines = block.splitlines()
        terms = [line for line in lines if not line.startswith(" ")]
        assert lines[: len(terms)] == terms and lines[len(terms) :], (
            f"not terms and then a definition: {block}"
        )
        entries.append((terms, " ".join(line.strip() for line in lines[len(terms) :])))
    return entries


def linked(text: str) -> set[str]:
    """Return the terms that a page links to, in lower case."""
    roles = re.findall(r"\{term\}`([^`]+)`", text)
    return {re.sub(r"\s+", " ", re.sub(r".*<(.*)>$", r"\1", role, flags=re.DOTALL)).lower() for role in roles}


def cited(text: str) -> set[str]:
    return {
        key.strip() for role in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in role.split(",")
    }


def undefined(pages: Mapping[str, str], entries: list[tuple[list[str], str]]) -> list[str]:
    known = {term.lower() for terms, _ in entries for term in terms}
    return [f"{name}: {term}" for name, text in pages.items() for term in sorted(linked(text) - known)]


def unused(pages: Mapping[str, str], entries: list[tuple[list[str], str]]) -> list[str]:
    """Return the entries to which no page links by any of their terms."""
    used = set().union(*(linked(text) for text in pages.values()))
    return [terms[0] for terms, _ in entries if not used & {term.lower() for term in terms}]


def nowhere_to_be_found(references: BibliographyData) -> list[str]:
    """Return the entries without a valid DOI, arXiv number or address."""
    offences = []
    for key, entry in references.entries.items():
        doi, eprint, url = (entry.fields.get(name) for name in ("doi", "eprint", "url"))
        if doi and not re.fullmatch(r"10\.\d{4,9}/\S+", doi):
            offences.append(f"{key}: DOI {doi}")
        if eprint and not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", eprint):
            offences.append(f"{key}: arXiv {eprint}")
        if eprint and entry.fields.get("archiveprefix") != "arXiv":
            offences.append(f"{key}: an eprint of {entry.fields.get('archiveprefix')}")
        if url and not re.match(r"https?://\S+$", url):
            offences.append(f"{key}: address {url}")
        if not (doi or eprint or url or "no DOI" in entry.fields.get("note", "")):
            offences.append(f"{key}: neither DOI, arXiv number nor address, and no note that there is none")
    return offences


def lacking(references: BibliographyData) -> list[str]:
    """Return the entries without author, title, year or place; software may be without a year."""
    place = {"journal", "booktitle", "publisher", "institution", "eprint", "howpublished", "url", "note"}
    offences = []
    for key, entry in references.entries.items():
        fields = set(entry.fields)
        dated = "year" in fields or "Software" in entry.fields.get("note", "")
        if not (entry.persons.get("author") and "title" in fields and dated and place & fields):
            offences.append(key)
    return offences


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: PLACES.source(name).read_text() for name in PLACES.page_names()}


@pytest.fixture(scope="module")
def references() -> BibliographyData:
    return parse_file(BOOK / "references.bib")


def test_every_term_that_a_page_links_to_is_defined(pages):
    assert undefined(pages, glossary(NOTATION)) == []


def test_every_term_is_linked_to_from_a_page(pages):
    others = {name: text for name, text in pages.items() if name != "notation"}
    assert unused(others, glossary(NOTATION)) == []


def test_terms_stand_once_and_in_order():
    entries = glossary(NOTATION)
    first = [terms[0].casefold() for terms, _ in entries]
    every = [term.lower() for terms, _ in entries for term in terms]
    assert first == sorted(first)
    assert sorted(every) == sorted(set(every))


def test_architectures_and_verdicts_are_terms():
    known = {term for terms, _ in glossary(NOTATION) for term in terms}
    words = {NOT_ATTEMPTED, NOT_JUDGED, NOT_MEASURED, *WORDS[True], *WORDS[False]}
    assert {*VARIANTS, *words} <= known


def test_every_profile_is_explained():
    explained = " ".join(text for _, text in glossary(NOTATION))
    kinds = {f"-{kind}" for kind in SIBLINGS}
    names = {plain(name) for name in PROFILES} | set(BOTTLENECK_PROFILES) | kinds
    assert [name for name in sorted(names) if f"`{name}`" not in explained] == []


def test_code_that_is_named_exists():
    for name in sorted(set(re.findall(r"`((?:lpc|experiments)(?:\.\w+)+)`", NOTATION))):
        module, *rest = name.split(".")
        found = importlib.import_module(module)
        for part in rest:
            module = f"{module}.{part}"
            found = getattr(found, part, None) or importlib.import_module(module)
    for name in re.findall(r"`((?:experiments|book)/[\w./]+)`", NOTATION):
        assert Path(BOOK.parent, name).exists(), name


def test_headings_hold_no_links_to_terms(pages):
    headings = [line for text in pages.values() for line in text.splitlines() if re.match(r"(> )*#+ ", line)]
    assert len(headings) > 100
    assert [line for line in headings if "{term}" in line] == []


def test_every_work_can_be_found(references):
    assert nowhere_to_be_found(references) == []
    assert lacking(references) == []


def test_works_are_those_that_pages_cite(pages, references):
    assert set().union(*map(cited, pages.values())) == set(references.entries)


def test_offences_are_found():
    entries = glossary("x\n```{glossary}\nbox\npixel box\n  Range of pixels.\n\nspare\n  Unused.\n```\n")
    page = {"page": "> a {term}`Pixel\nbox`, a {term}`thing <box>` and a {term}`gap <logit gap>`"}
    assert [terms for terms, _ in entries] == [["box", "pixel box"], ["spare"]]
    assert undefined(page, entries) == ["page: logit gap"]
    assert unused(page, entries) == ["spare"]
    found = parse_string(
        "@misc{a, author={A}, title={T}, year={2000}, doi={doi:10.1/x}}"
        "@misc{b, author={A}, title={T}, year={2000}, eprint={12}, archiveprefix={arXiv}}"
        "@misc{c, author={A}, title={T}, note={no year}}"
        "@misc{d, author={A}, title={T}, note={no DOI}, year={2000}}",
        "bibtex",
    )
    assert [text.split(":")[0] for text in nowhere_to_be_found(found)] == ["a", "b", "c"]
    assert lacking(found) == ["a", "c"]
    assert cited("{cite}`a,b` and {cite:t}`c`") == {"a", "b", "c"}
