"""Numbers typed into prose: the rules for them, and the register that gives the source of each.

A measured number belongs in a cell's output or a substitution of the ledger. Any other number that is typed
into a page is entered in ``numbers.toml`` beside the pages, with its source. Of the numbers in prose
(:mod:`experiments.publishing.checking.prose`, without code and maths), these count:

- decimals, numbers with an exponent, and whole numbers with a comma between thousands;
- numbers, and number words from two up, before a percent sign, ``times``, ``-fold`` or a unit (seconds,
  bytes, nats, points, epochs, ...), alone or in a row: "29 to 52 times";
- numbers after ``×``, ``times``, ``factor of`` and ``epoch``;
- "4 of 50", "4 in 50".

Small whole numbers without a unit do not count: they count things or name settings, as in "128 nodes". Nor do
numbers in references (Section 2.1, Eqs. 25 to 27, Table 2, Appendix A.5, line 14), names and versions
(CIFAR10, ResNet-18, Python 3.10, 1.5.4), or years, which have no unit.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.paths import read_toml
from experiments.publishing.checking.prose import NOT_PROSE, Block, PageProse
from lpc.errors import unknown_name

REGISTER = "numbers.toml"
"""File name of the register, which lies beside the pages."""
HISTORICAL = "historical"
"""The register's table of pages that report findings of one date and are not searched, with reasons."""
KINDS = ("paper", "setting", "definition", "mathematics")
"""Sources of typed numbers: a paper or its release, our code, a convention, or reasoning."""

_DIGITS = r"(?<![\w.])(?<![A-Za-z]-)[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?![.,]?\w)"
_WORDS = (
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion|dozen)\b"
)
_PLACES = (
    r"Sections?|Eqs?\.|Equations?|Tables?|Figures?|Appendi(?:x|ces)|Observations?|Theorems?|[Ff]ootnotes?"
    r"|[Ll]ines?|Chapters?|[Vv]ersions?|Python|PyTorch|CUDA"
)
_REFERENCE = re.compile(
    rf"\b(?:{_PLACES})(?:(?:,| and| to|,? or)?\s+(?:[A-E]|(?:[A-E]\.)?\d+(?:\.\d+)*)(?!\w|\.\d|\s?%))+"
    r"|\b\d+(?:\.\d+){2,}"
)
_UNITS = (
    r"%|‰|per\s?cent|times|×|-?fold|nats?|bits?|[mµn]?s|seconds?|minutes?|hours?|GPU-hours?|days?|weeks?"
    r"|[kKMGT]i?B|bytes|[kKMGTPE]?FLOPs?|degrees?|epochs?"
)
_ROW = r"(?:\s*(?:to|or|and|–|±|against)\s+{0})*"
_PATTERNS = (
    re.compile(rf"{_DIGITS}(?<=\d)"),  # kept if it has a point, an exponent or a comma
    re.compile(rf"{_DIGITS}{_ROW.format(_DIGITS)}\s*(?:{_UNITS}|points?)(?!\w)"),
    re.compile(rf"{_WORDS}\s*(?:{_UNITS})(?!\w)"),
    re.compile(rf"(?:×|\btimes|\bfactors?\s+(?:of\s+)?|\bepochs?)\s*{_DIGITS}"),
    re.compile(rf"{_DIGITS}\s+(?:of|in)\s+(?:the\s+)?{_DIGITS}"),
    re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:x|[mµn]?s|[kKMGT]i?B)\b"),
)
_VALUE = re.compile(_DIGITS)


class Entry(NamedTuple):
    """A typed number of the register.

    Attributes
    ----------
    page
        Page with the number.
    text
        The page's words around the number, and the number itself; line breaks are spaces.
    kind
        Kind of source, one of :data:`KINDS`.
    place
        The source: a table of the paper, a name in the code, the reasoning.
    value
        Expression for the number, or for several in order, as ``module: expression``; empty: none.
        ``default(function, parameter)`` gives the default of a parameter.
    """

    page: str
    text: str
    kind: str
    place: str
    value: str = ""


class Register(NamedTuple):
    """The register: its entries, and the reasons for not searching some pages."""

    entries: list[Entry]
    historical: dict[str, str]


class Offence(NamedTuple):
    """An offence on a page: its file, the line or cell, what was found, and what was expected."""

    file: str
    place: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.found}; expected {self.expected}"


def read(path: Path) -> Register:
    """Return the register; it is empty if there is no file.

    Raises
    ------
    ValueError
        If a field is unknown, missing or empty, or a kind is unknown.
    """
    content = read_toml(path) if path.exists() else {}
    historical = content.pop(HISTORICAL, {})
    entries = []
    for page, listed in content.items():
        for number, one in enumerate(listed, 1):
            where = f"{path.name}, entry {number} of {page}"
            for name in one:
                if name not in Entry._fields[1:]:
                    raise unknown_name(f"field in {where}:", name, Entry._fields[1:])
            for name in ("text", "kind", "place"):
                if not one.get(name):
                    raise ValueError(f"{where} has no {name}")
            if one["kind"] not in KINDS:
                raise unknown_name(f"kind in {where}:", one["kind"], KINDS)
            entries.append(Entry(page, **one))
    return Register(entries, historical)


def spans(masked: str) -> list[tuple[int, int]]:
    """Return the positions of the numbers that count in a text, in order; overlapping ones are joined."""
    text = _REFERENCE.sub(lambda match: NOT_PROSE * len(match[0]), masked)
    found = [match.span() for pattern in _PATTERNS[1:] for match in pattern.finditer(text)]
    found += [match.span() for match in _PATTERNS[0].finditer(text) if re.search("[.,e]", match[0])]
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if joined and begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def check(pages: Sequence[PageProse], register: Register, *, whole: bool = True) -> Iterator[Offence]:
    """Yield the typed numbers that the register lacks, and its entries that are on no page.

    Parameters
    ----------
    pages
        Pages of the book.
    register
        Register from :func:`read`.
    whole
        Whether these are all pages that the register covers.
    """
    names = [page.name for page in pages]
    listed = {*register.historical, *(entry.page for entry in register.entries)}
    for name in sorted(listed - {*names}) if whole else ():
        yield Offence(REGISTER, name, "not a page of the book", f"one of {', '.join(names)}")
    for page in pages:
        if page.name in register.historical:
            continue
        entries = [entry for entry in register.entries if entry.page == page.name]
        used: set[Entry] = set()
        for block in page.blocks:
            yield from _unregistered(page.name, block, entries, used)
        for entry in entries:
            if entry not in used:
                why = "words of the page as a reader sees them: correct or remove the entry"
                yield Offence(REGISTER, page.name, f"{entry.text!r} is not on this page", why)
    for entry in register.entries:
        if entry.value:
            yield from _wrong_value(entry)


def _unregistered(page: str, block: Block, entries: Sequence[Entry], used: set[Entry]) -> Iterator[Offence]:
    flat = re.sub(r"\s", " ", block.text)
    covered = [
        (place.start(), place.end(), entry)
        for entry in entries
        for place in re.finditer(re.escape(entry.text), flat)
    ]
    used.update(entry for _, _, entry in covered)
    for begin, end in spans(block.masked):
        if not any(first <= begin and end <= last for first, last, _ in covered):
            around = flat[max(0, begin - 40) : end + 25].strip()
            yield Offence(
                f"{page}.md",
                f"line {block.line_of(begin)}",
                f"the number {flat[begin:end]!r} in '{around}' is typed",
                f"a cell's output, a substitution of the ledger, or an entry in {REGISTER} with its source",
            )


def _wrong_value(entry: Entry) -> Iterator[Offence]:
    """Compare an entry's numbers with its expression's, to the printed digits."""
    where = (REGISTER, f"{entry.page}, {entry.text!r}")
    module, _, expression = entry.value.partition(":")
    try:
        given: Any = eval(expression.strip(), {**vars(importlib.import_module(module)), "default": _default})
        values = [float(one) for one in (given if isinstance(given, tuple | list) else [given])]
    except Exception as error:
        yield Offence(
            *where, f"{entry.value!r} gives {type(error).__name__}: {error}", "a number, or several"
        )
        return
    printed = [one.replace(",", "") for one in _VALUE.findall(entry.text)]
    same = len(printed) == len(values)
    if not same or not all(map(_agree, printed, values)):
        told = ", ".join(f"{value:.6g}" for value in values)
        yield Offence(*where, f"{entry.value!r} gives {told}", f"{', '.join(printed)}, as typed")


def _default(function: Callable[..., Any], parameter: str) -> Any:
    """Return a parameter's default, for expressions of the register."""
    return inspect.signature(function).parameters[parameter].default


def _agree(text: str, value: float) -> bool:
    """Return whether a value rounds to the printed number."""
    mantissa, _, exponent = text.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(value - float(text)) <= 0.5000001 * last
