"""Checks of a page's boxes: an answer needs question, claims and figure; a quotation needs its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from experiments.publishing.checking.prose import Box, PageProse, listed
from experiments.publishing.checking.typed_numbers import Offence

MOST_CLAIMS = 4
"""Largest number of claims in an answer; further claims belong in the text."""
_ANSWER = ("claims", "figure")
_NUMBER = r"(?:[A-Z]\b|(?:[A-Z]\.)?\d+(?:\.\d+)*|[ivx]+\b)"
_PLACE = re.compile(
    r"\S,? +(?:(?:Abstract|Title)\b|(?:Sections?|Tables?|Figures?|Eqs?\.|Equations?|Pages?|pp?\."
    rf"|Appendi(?:x|ces)|Observations?|Theorems?|Propositions?|Lemmas?|Algorithms?|[Ff]ootnotes?) +{_NUMBER})"
)


def check(page: PageProse) -> Iterator[Offence]:
    """Yield the offences in a page's boxes, by page and line; unknown claims are reported as insertions."""
    answers = [box for box in page.boxes if box.kind == "answer"]
    for box in answers:
        yield from _answer(page, box)
    for box in answers[1:]:
        yield _offence(page, box, "a second answer", f"one: the other is on line {answers[0].line}")
    for box in page.boxes:
        if not box.body:
            yield _offence(page, box, f"{{{box.kind}}} {box.argument!r} is empty", "text in it")
        if box.kind == "paper" and not _PLACE.search(box.argument):
            expected = "the paper and a section, table, figure, equation or page of it: LPC, Section 2.2"
            yield _offence(page, box, f"{{paper}} {box.argument!r} names no place", expected)


def _answer(page: PageProse, box: Box) -> Iterator[Offence]:
    if not box.argument.endswith("?"):
        yield _offence(page, box, f"{{answer}} {box.argument!r}", "a question, on the same line")
    if unknown := sorted(set(box.options) - set(_ANSWER)):
        yield _offence(page, box, f"the option {', '.join(unknown)} of an answer", " or ".join(_ANSWER))
    claims = listed(box.options.get("claims", ""))
    if len(claims) > MOST_CLAIMS or len(set(claims)) < len(claims):
        yield _offence(page, box, f"the claims {', '.join(claims)}", f"up to {MOST_CLAIMS}, each once")
    figures = [name for _, name in page.figures]
    if "figure" in box.options and box.options["figure"] not in figures:
        expected = f"one of this page's: {', '.join(figures) or 'it has none'}"
        yield _offence(page, box, f"figure {box.options['figure']!r} of the answer", expected)


def _offence(page: PageProse, box: Box, found: str, expected: str) -> Offence:
    return Offence(f"{page.name}.md", f"line {box.line}", found, expected)
