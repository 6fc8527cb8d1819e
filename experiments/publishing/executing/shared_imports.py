"""Imports that several chapters share: a process that forks their kernels loads them once, before it does."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

from IPython.core.inputtransformer2 import TransformerManager

from experiments.publishing.executing.chapter_sources import code_of
from experiments.publishing.places import PLACES, Places

VARIABLE = "LPC_SHARED_IMPORTS"
"""Environment variable with their names, comma-separated, for the process that forks
(:mod:`experiments.publishing.executing.preloaded`)."""


def shared_imports(names: Sequence[str], places: Places = PLACES) -> list[str]:
    """Return the modules that at least two of some chapters import, sorted.

    Parameters
    ----------
    names
        Names of the chapters.
    places
        Location of the chapters.

    Returns
    -------
    list of str
        Full names. What is imported *from* a module is among them, whether it is a module or not: only an
        import can tell. Nothing of a chapter whose code is not Python.
    """
    counted = Counter(module for name in names for module in set(_imported(code_of(name, places))))
    return sorted(module for module, count in counted.items() if count > 1)


def _imported(cells: Sequence[str]) -> Iterator[str]:
    try:
        tree = ast.parse("\n".join(TransformerManager().transform_cell(cell) for cell in cells))
    except SyntaxError:
        return  # it is told when the chapter is executed
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{item.name}" for item in node.names)
