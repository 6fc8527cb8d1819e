"""Reads the prose in a page's source, with line numbers: text, captions and alt texts, not code or maths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from experiments.paths import ROOT

NOT_PROSE = "\ufffc"
"""Replaces, in a block's ``masked`` text, every character of code, maths, roles, substitutions and links."""
CODE_WIDTH = 84
"""Number of characters of code that fit into the width of a page's column."""
_CODE = frozenset(["bibliography", "code", "code-block", "code-cell", "csv-table", "eval-rst", "math"])
_CODE |= {"literalinclude", "mermaid", "raw", "sourcecode", "tableofcontents", "toctree"}
_PICTURES = frozenset(["figure", "image"])
_BOXES = frozenset(["answer", "paper"])
_TAG = re.compile(r"<!--.*?-->|<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.DOTALL)
_OPTION = re.compile(r":[\w-]+:(?:\s|$)")


class Block(NamedTuple):
    """A paragraph, heading, cell of a table, caption or alt text.

    Attributes
    ----------
    line
        Line of the page's source on which it begins, from 1.
    text
        Text without marks of emphasis; code, maths, roles and substitutions as written.
    masked
        The same text, in which :data:`NOT_PROSE` replaces everything that is not prose.
    """

    line: int
    text: str
    masked: str

    def line_of(self, place: int) -> int:
        """Return the line of the source that has the character at a position of the text."""
        return self.line + self.text.count("\n", 0, place)


class Picture(NamedTuple):
    """An image in a page's Markdown: its line, file, and alt text (empty if there is none)."""

    line: int
    file: str
    alt: str


class Box(NamedTuple):
    """An ``answer`` or a ``paper`` element of a page.

    Attributes
    ----------
    line
        Line on which it begins, from 1.
    kind
        Name of the directive.
    argument
        Argument on the directive's line: the question, or the place in the paper.
    options
        Options, as text.
    body
        Content of the element.
    """

    line: int
    kind: str
    argument: str
    options: dict[str, str]
    body: str


class PageProse(NamedTuple):
    """A page's prose, images and boxes, and its figures, substitutions and long lines of code.

    Attributes
    ----------
    name
        Name of the page.
    blocks, pictures
        Text blocks and images, in the order of the source.
    figures
        Line and name of each figure.
    inserted
        Line of each substitution, and the text between its braces. An answer counts as inserting the verdict
        and value of its claims.
    boxes
        Answers, and quotations from papers.
    wide
        Line and length of each line of code longer than :data:`CODE_WIDTH`.
    """

    name: str
    blocks: list[Block]
    pictures: list[Picture]
    figures: list[tuple[int, str]]
    inserted: list[tuple[int, str]]
    boxes: list[Box]
    wide: list[tuple[int, int]]


@cache
def _parser() -> MarkdownIt:
    extensions = yaml.safe_load((ROOT / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
    return create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)


def read(path: Path) -> PageProse:
    """Return a page's prose; the result is cached and must not be changed."""
    return _read(path.stem, path.read_text())


@lru_cache(maxsize=100)
def _read(name: str, text: str) -> PageProse:
    page = PageProse(name, [], [], [], [], [], [])
    _collect(text, 1, page)
    return page


def _collect(text: str, first: int, page: PageProse) -> None:
    """Add to a page the content of a text whose first line is the page's line ``first``."""
    for token in _parser().parse(text):
        if token.map is None:
            continue
        line = first + token.map[0]
        if token.type == "inline":
            page.blocks.append(_block(token.children or [], line))
            page.pictures.extend(_pictures(token.children or [], line))
            page.inserted.extend(_substitutions(token.children or [], line))
        elif token.type == "substitution_block":
            page.inserted.append((line, " ".join(token.content.split())))
        elif token.type == "html_block":
            masked = _TAG.sub(lambda tag: _mask(tag[0]), token.content)
            page.blocks.append(Block(line, token.content, masked))
            page.pictures.extend(_html_pictures(token.content, line))
        elif token.type in ("fence", "colon_fence") and token.info.startswith("{"):
            _directive(token, line, page)


def _block(children: list[Token], line: int) -> Block:
    parts = list(_parts(children))
    masked = "".join(part if prose else _mask(part) for part, prose in parts)
    return Block(line, "".join(part for part, _ in parts), masked)


def _mask(text: str) -> str:
    return re.sub(r"[^\n]", NOT_PROSE, text)


def _parts(children: list[Token]) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a paragraph and whether each is prose."""
    for child in children:
        match child.type:
            case "text":
                yield child.content, True
            case "softbreak" | "hardbreak":
                yield "\n", True
            case "code_inline":
                yield f"`{child.content}`", False
            case "math_inline" | "math_inline_double":
                yield f"${child.content}$", False
            case "substitution_inline":
                yield f"{{{{ {child.content.strip()} }}}}", False
            case "myst_role" if child.meta["name"] == "term":
                yield re.sub(r"\s*<.*>$", "", child.content), False
            case "myst_role":
                yield f"{{{child.meta['name']}}}`{child.content}`", False
            case "image":
                yield child.content, True
            case _:
                yield child.content, False


def _pictures(children: list[Token], line: int) -> Iterator[Picture]:
    for child in children:
        if child.type == "image":
            yield Picture(line, str(child.attrs["src"]), child.content)
        elif child.type == "html_inline":
            yield from _html_pictures(child.content, line)
        line += child.type in ("softbreak", "hardbreak")


def _substitutions(children: list[Token], line: int) -> Iterator[tuple[int, str]]:
    for child in children:
        if child.type == "substitution_inline":
            yield line, " ".join(child.content.split())
        line += 1 if child.type in ("softbreak", "hardbreak") else child.content.count("\n")


def _html_pictures(html: str, line: int) -> Iterator[Picture]:
    for tag in re.finditer(r"<img\b[^>]*>", html):
        told = dict(re.findall(r"""(src|alt)=["'](.*?)["']""", tag[0], re.DOTALL))
        yield Picture(line + html.count("\n", 0, tag.start()), told.get("src", ""), told.get("alt", ""))


def _directive(token: Token, line: int, page: PageProse) -> None:
    name, _, argument = token.info.partition("}")
    name = name[1:]
    options, body, skipped = _options(token.content)
    if name == "code-cell":
        mystnb = options.get("mystnb") or {}
        if name := mystnb.get("figure", {}).get("name"):
            page.figures.append((line, name))
        _described(mystnb.get("figure", {}).get("caption"), token.content, line, page)
        _described(mystnb.get("image", {}).get("alt"), token.content, line, page)
        for place, code in enumerate(body.split("\n"), line + 1 + skipped):
            if len(code) > CODE_WIDTH:
                page.wide.append((place, len(code)))
        return
    if name in _CODE:
        return
    if name in _BOXES:
        box = Box(line, name, argument.strip(), options, body.strip())
        page.boxes.append(box)
        for claim in listed(options.get("claims", "")):
            page.inserted.extend((line, f"claims.{claim}.{column}") for column in ("verdict", "measured"))
    if name in _PICTURES:
        alt = str(options.get("alt") or "")
        page.pictures.append(Picture(line, argument.strip(), alt))
        if "name" in options:
            page.figures.append((line, options["name"]))
        _described(alt, token.content, line, page)
    elif argument.strip():
        _collect(argument.strip(), line, page)
    _collect(body, line + 1 + skipped, page)


def listed(text: str) -> list[str]:
    """Return the names that an option lists, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _options(content: str) -> tuple[dict, str, int]:
    """Return a directive's options, its body, and the number of lines above the body."""
    lines = content.split("\n")
    if lines[0].strip() == "---" and "---" in lines[1:]:
        end = lines.index("---", 1)
        return yaml.safe_load("\n".join(lines[1:end])) or {}, "\n".join(lines[end + 1 :]), end + 1
    end = next((place for place, one in enumerate(lines) if not _OPTION.match(one)), len(lines))
    options = {key: value.strip() for _, key, value in (one.split(":", 2) for one in lines[:end])}
    return options, "\n".join(lines[end:]), end


def _described(text: str | None, content: str, line: int, page: PageProse) -> None:
    """Add a caption or alt text to a page, with its line breaks as in the cell's header."""
    words = (text or "").split()
    if not words:
        return
    written = re.search(r"\s+".join(map(re.escape, words)), content)
    if written is None:  # YAML's quoting has changed it
        return _collect(" ".join(words), line, page)
    lines = "\n".join(one.strip() for one in written[0].split("\n"))
    _collect(lines, line + 1 + content.count("\n", 0, written.start()), page)
