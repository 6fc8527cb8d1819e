"""Reads a chapter's source before execution: its parameters, the header's settings, its code."""

from __future__ import annotations

import ast
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import papermill

from experiments.publishing.executing import needs
from experiments.publishing.places import PLACES, Places
from lpc.errors import unknown_name

MINUTES = 60.0
"""Time limit, in minutes, of a chapter whose header gives none: several times what the longest chapter takes
on two slow cores."""
_TEXTS = {"profile", "store"}
"""Parameters whose values are text in every chapter."""


def parse(text: str) -> Any:
    """Return a parameter's value as Python reads it, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def convert(name: str, target: Path, places: Places = PLACES) -> dict[str, Any]:
    """Write a chapter as a notebook and return its parameters with their defaults, as source text.

    Raises
    ------
    ValueError
        If the chapter is unknown, or does not have exactly one cell tagged ``parameters``.
    """
    source = places.source(name)
    if not source.exists():
        raise unknown_name("chapter", name, sorted(path.stem for path in places.sources.glob("*.md")))
    notebook = jupytext.read(source)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"chapter {name} has {len(tagged)} cells tagged parameters; expected one")
    nbformat.write(notebook, target)
    return {key: value["default"] for key, value in papermill.inspect_notebook(str(target)).items()}


def code_of(name: str, places: Places = PLACES) -> list[str]:
    """Return the code of a chapter, cell by cell."""
    return [code for code, _ in cells_of(name, places)]


def cells_of(name: str, places: Places = PLACES) -> list[tuple[str, list[str]]]:
    """Return the code of a chapter and its tags, cell by cell."""
    notebook = _parsed(places.source(name).read_text())
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [(cell.source, cell.metadata.get("tags", [])) for cell in code]


def header_of(name: str, places: Places = PLACES) -> dict[str, Any]:
    """Return a chapter's header."""
    return _parsed(places.source(name).read_text()).metadata


@lru_cache(maxsize=100)
def _parsed(text: str) -> nbformat.NotebookNode:
    """Return a chapter's text as a notebook; the result is cached and must not be changed."""
    return jupytext.reads(text, fmt="md")


class Settings(NamedTuple):
    """Settings of a chapter's header under ``lpc``.

    Attributes
    ----------
    alone
        Whether the chapter measures time and must therefore run alone.
    needs
        Runs and probes that it reads, as named in ``experiments.publishing.executing.needs.NEEDS``.
    live
        Whether it trains so much itself that only profiles in ``experiments.studies.profiles.LIVE`` suit it.
    minutes
        Time limit of the chapter, hence of each of its cells, in minutes.
    """

    alone: bool = False
    needs: tuple[str, ...] = ("ablation",)
    live: bool = False
    minutes: float = MINUTES


def settings_of(name: str, places: Places = PLACES) -> Settings:
    """Return the settings of a chapter's header under ``lpc``.

    Raises
    ------
    ValueError
        If the header has anything other than ``alone`` and ``live`` (true or false), ``needs`` (a list) and
        ``minutes`` (a number above 0).
    """
    given = _parsed(places.source(name).read_text()).metadata.get("lpc", {})
    settings = given if isinstance(given, dict) else {"unknown": given}
    read, alone, live = (
        settings.get("needs", ["ablation"]),
        settings.get("alone", False),
        settings.get("live", False),
    )
    minutes = settings.get("minutes", MINUTES)
    known = set(settings) <= set(Settings._fields) and needs.valid(read)
    known &= isinstance(minutes, (int, float)) and not isinstance(minutes, bool) and 0 < minutes < math.inf
    if not known or {alone, live} - {True, False}:
        raise ValueError(
            f"chapter {name} has lpc: {given} in its header; expected alone: true or false, live: true or "
            f"false, needs: a list of {', '.join(needs.NEEDS)} (the last only with runs that are probed: "
            f"{', '.join(needs.PROBED)}), minutes: a number above 0"
        )
    return Settings(alone, tuple(read), live, minutes)


def assign(
    names: Sequence[str], values: Mapping[str, Any], places: Places = PLACES, *, named: bool = True
) -> dict[str, dict[str, Any]]:
    """Return every chapter's parameters: its defaults, replaced by the given values.

    Parameters
    ----------
    names
        Names of chapters.
    values
        Values by parameter. If the chapters were ``named``, each of them must have every parameter; if not,
        each takes those that it has, and every parameter must belong to some chapter.
    places
        Where the chapters are.
    named
        Whether the user named the chapters; if not, all are meant.
    """
    defaults: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found = convert(name, Path(folder) / "chapter.ipynb", places)
            defaults[name] = {key: parse(value) for key, value in found.items()}
    for key in _TEXTS & values.keys():
        if not isinstance(values[key], str):
            raise ValueError(f"parameter {key} is {values[key]!r}; expected text")
    everything = sorted({key for found in defaults.values() for key in found})
    for key in values:
        for name in names:
            if named and key not in defaults[name]:
                raise unknown_name(f"parameter of chapter {name}:", key, defaults[name])
        if key not in everything:
            raise unknown_name("parameter", key, everything)
    return {
        name: {**found, **{key: value for key, value in values.items() if key in found}}
        for name, found in defaults.items()
    }


def chosen(
    names: Sequence[str] | None, values: Mapping[str, Any] | None, places: Places = PLACES
) -> dict[str, dict[str, Any]]:
    """Return the parameters of the given chapters, or of all, by chapter; see :func:`assign`."""
    places.check_names(names or ())
    return assign(list(names or places.chapter_names()), values or {}, places, named=bool(names))
