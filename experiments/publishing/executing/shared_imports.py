"""Finds the imports that several chapters share, for the process that forks their kernels to load once."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

from IPython.core.inputtransformer2 import TransformerManager

from experiments.publishing.executing.chapter_sources import code_of
from experiments.publishing.places import PLACES, Places

VARIABLE = "LPC_SHARED_IMPORTS"
"""Environment variable that passes their names, separated by commas, to the process that forks kernels
(:mod:`experiments.publishing.executing.preloaded`)."""


def shared_imports(names: Sequence[str], places: Places = PLACES) -> list[str]:
    """Return the modules that at least two of the given chapters import, sorted.

    Parameters
    ----------
    names
        Names of the chapters.
    places
        Where the chapters are.

    Returns
    -------
    list of str
        Full names. Names imported *from* a module are included even if they may not be modules: only an
        import can tell. A chapter whose code is not Python contributes nothing.
    """
    counted = Counter(module for name in names for module in set(_imported(code_of(name, places))))
    return sorted(module for module, count in counted.items() if count > 1)


def _imported(cells: Sequence[str]) -> Iterator[str]:
    try:
        tree = ast.parse("\n".join(TransformerManager().transform_cell(cell) for cell in cells))
    except SyntaxError:
        return  # the error is reported when the chapter is executed
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{item.name}" for item in node.names)
