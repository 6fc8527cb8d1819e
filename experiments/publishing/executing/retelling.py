"""Gives an executed chapter new prose if its code has not changed, and keeps its outputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from experiments.publishing.executing.chapter_sources import convert
from experiments.publishing.executing.staleness import digest_of, fingerprint, read_stamp
from experiments.publishing.places import Places
from lpc.store.writers import folder_prefix

INJECTED = "injected-parameters"
"""The tag of the cell that papermill inserts below the one with the parameters."""


def retell(name: str, values: Mapping[str, Any], places: Places) -> bool:
    """Promote a chapter's outputs with its source's present prose, captions and alt texts.

    Parameters
    ----------
    name
        Name of the chapter.
    values
        Values of all its parameters.
    places
        Where the chapter is.

    Returns
    -------
    bool
        Whether its outputs are current, so that nothing has to be executed.
    """
    stamp = read_stamp(name, places)
    if stamp is None or stamp["fingerprint"] != fingerprint(name, values, places):
        return False
    text = digest_of(places.source(name))  # taken first: later edits are not in the output
    with tempfile.TemporaryDirectory(dir=places.notebooks, prefix=folder_prefix("executing")) as folder:
        target = Path(folder) / f"{name}.ipynb"
        convert(name, target, places)
        notebook = nbformat.read(target, as_version=4)
        executed = nbformat.read(places.notebooks / f"{name}.ipynb", as_version=4)
        if not _take_outputs(notebook, executed):
            return False
        nbformat.write(notebook, target)
        (Path(folder) / "stamp.json").write_text(
            json.dumps({**stamp, "text": text, "notebook": digest_of(target)}, indent=1)
        )
        target.replace(places.notebooks / f"{name}.ipynb")
        # until the next line, the notebook has an older stamp and is not current
        (Path(folder) / "stamp.json").replace(places.notebooks / f"{name}.json")
    return True


def _take_outputs(notebook: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> bool:
    """Put an executed notebook's outputs into a new one if their code is the same; return whether it is."""
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in code if INJECTED in cell.metadata.get("tags", [])]
    done = [cell for cell in code if cell not in injected]
    own = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.source for cell in own] != [cell.source for cell in done]:
        return False
    for cell, last in zip(own, done, strict=True):
        cell.outputs, cell.execution_count = last.outputs, last.execution_count
    for cell in injected:
        place = next(at for at, one in enumerate(notebook.cells) if _sets_parameters(one))
        notebook.cells.insert(place + 1, cell)
    notebook.metadata = executed.metadata
    return True


def _sets_parameters(cell: nbformat.NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])
