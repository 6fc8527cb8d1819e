"""What readers can download from a page: its notebook, source, tables, figures and runs."""

from __future__ import annotations

import base64
import copy
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd

from experiments.paths import ROOT
from experiments.publishing.executing.needs import Asked, asked
from experiments.publishing.places import Places
from experiments.reporting.csv_tables import MIME
from experiments.studies import ablation, bottlenecks
from experiments.studies.export import best_results, write
from experiments.studies.recorded import all_recorded, all_recorded_bottlenecks

FOLDER = "downloads"
"""The files' folder within the staged folder; the role ``{download}`` copies those that a page links to."""
FIGURES = {"image/svg+xml": "svg", "image/png": "png"}
"""Formats in which figures are offered, by mime type, and their suffixes."""
_UNSHOWN = {"remove-cell", "remove-output"}
_WORDS = 7  # of a caption that go into a file's name


class Runs(NamedTuple):
    """Runs of a profile, as one file.

    Attributes
    ----------
    name
        Name of the profile; after a comma, what distinguishes these runs from its others.
    table
        Table with one row per run.
    """

    name: str
    table: pd.DataFrame


def repository(settings: Mapping[str, Any]) -> str:
    """Return the web address of the project's files, from Jupyter Book's ``repository``; empty: none."""
    given = settings.get("repository") or {}
    return f"{given['url'].rstrip('/')}/blob/{given.get('branch', 'main')}" if given.get("url") else ""


def paragraph(links: Sequence[str]) -> str:
    """Return links as a paragraph in small type."""
    return f":::{{div}} downloads\n{' · '.join(links)}\n:::"


@dataclass
class Downloads:
    """Files that the pages of one staged folder offer; each method writes files and returns or adds links.

    Attributes
    ----------
    target
        Staged folder.
    places
        Locations of the book's parts.
    substitutions
        Substitutions, as for :func:`experiments.publishing.build.stage`.
    address
        Web address of the project's files, from :func:`repository`.
    """

    target: Path
    places: Places
    substitutions: Mapping[str, Any]
    address: str = ""
    _runs: dict[Any, list[Runs]] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """Copy a page's source and return the link to it, which names its path in the project."""
        shutil.copy(self.places.source(name), self._folder)
        place = f"{self.places.sources.name}/{name}.md"
        link = f"Source: {_link(place, f'{name}.md')}"
        return f"{link} ([repository]({self.address}/{place}))" if self.address else link

    def page(self, name: str, notebook: nbformat.NotebookNode, stamp: Mapping[str, Any]) -> list[str]:
        """Write a chapter's notebook, source and runs and return the links to them.

        Parameters
        ----------
        name
            Name of the chapter.
        notebook
            Notebook as executed. In the copy, substitutions replace the double braces.
        stamp
            Record of the execution.
        """
        plain = copy.deepcopy(notebook)
        for cell in plain.cells:
            if cell.cell_type == "markdown":
                cell.source = _inserted(cell.source, self.substitutions)
        nbformat.write(plain, self._folder / f"{name}.ipynb")
        links = [_link("Notebook", f"{name}.ipynb"), self.source(name)]
        values, found = stamp["parameters"], []
        for one in asked(stamp["needs"], values):
            key = (one.study, one.profile, one.seeds, ROOT / str(values["store"]))
            if key not in self._runs:
                self._runs[key] = _runs_of(one, key[-1])
            found += [self._link_to(runs) for runs in self._runs[key]]
        return [*links, f"Runs as CSV: {', '.join(dict.fromkeys(found))}"] if found else links

    def outputs(self, chapter: str, notebook: nbformat.NotebookNode) -> None:
        """Move a chapter's tables to files, copy its figures, and add links below each cell that shows one.

        Parameters
        ----------
        chapter
            Name of the chapter.
        notebook
            Notebook as executed.
        """
        cells, tables, figures = [], 0, 0
        for cell in notebook.cells:
            cells.append(cell)
            csv, drawn = [], []
            for out in cell.get("outputs", []):
                data = out.get("data", {})
                text = data.pop(MIME, None)  # Sphinx does not know this type
                if _UNSHOWN & set(cell.metadata.get("tags", [])):
                    continue
                if text is not None:
                    tables += 1
                    caption = out.metadata.get(MIME, {}).get("caption", "")
                    csv.append(self._write(f"{chapter}-table-{tables}{_slug(caption)}.csv", text))
                if kinds := [kind for kind in FIGURES if kind in data]:
                    figures += 1
                    stem = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
                    stem = f"{stem or f'{chapter}-figure-{figures}'}{f'-{len(drawn) + 1}' if drawn else ''}"
                    drawn.append([self._write(f"{stem}.{FIGURES[kind]}", data[kind]) for kind in kinds])
            links = [f"Table as {_each(csv)}"] if csv else []
            links += [f"Figure as {_each(names)}" for names in drawn]
            if links:
                cells.append(nbformat.v4.new_markdown_cell(paragraph(links), id=f"downloads-{len(cells)}"))
        notebook.cells = cells

    @property
    def _folder(self) -> Path:
        folder = self.target / FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def _write(self, name: str, data: str) -> str:
        if name.endswith(".png"):
            (self._folder / name).write_bytes(base64.b64decode(data))
        else:
            (self._folder / name).write_text(data)
        return name

    def _link_to(self, runs: Runs) -> str:
        if runs.table.empty:
            return f"{runs.name} (none in the store)"
        name = f"runs{_slug(runs.name)}.csv"
        if not (self._folder / name).exists():  # another page may have written it
            write([runs.table], self._folder / name)
        return _link(runs.name, name)


def _link(text: str, name: str) -> str:
    return f"{{download}}`{text} <{FOLDER}/{name}>`"


def _each(names: Sequence[str]) -> str:
    return ", ".join(_link(name.rpartition(".")[2].upper(), name) for name in names)


def _slug(caption: str) -> str:
    words = re.findall(r"[a-z0-9]+", caption.lower())[:_WORDS]
    return "".join(f"-{word}" for word in words)


def _inserted(text: str, substitutions: Mapping[str, Any]) -> str:
    """Return a text with its substitutions inserted; other braces, such as those of formulas, stay."""

    def value(match: re.Match[str]) -> str:
        found: Any = substitutions
        for part in match[1].split("."):
            if not isinstance(found, Mapping) or part not in found:
                return match[0]
            found = found[part]
        return str(found)

    return re.sub(r"\{\{\s*([\w.]+)\s*\}\}", value, text)


def _runs_of(one: Asked, store: Path) -> list[Runs]:
    """Return the runs that a page needs, as they are in the store, and recorded runs shown beside them."""
    seeds = "" if one.seeds is None else f" {one.seeds} seeds"
    if one.study == "bottlenecks":
        own = bottlenecks.existing(one.profile, seeds=one.seeds, store=store).frame
        others = {other.profile.name: other.frame for other in all_recorded_bottlenecks(beside=one.profile)}
        kind = " bottlenecks"
    else:
        own = best_results(ablation.existing(one.profile, seeds=one.seeds, store=store))
        others = {other.profile.name: other.selected for other in all_recorded(beside=one.profile)}
        kind = ""
    recorded = [Runs(f"{name}{kind} recorded", table) for name, table in others.items()]
    return [Runs(f"{one.profile}{kind}{seeds}", own), *recorded]
