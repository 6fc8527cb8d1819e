"""Finds the project's files on which a page depends: modules it imports, directly or not, and their data.

The source is read, and nothing is imported. A package's ``__init__.py`` passes on names from many modules; a
page depends only on those from which its own names come.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

from experiments import paths
from experiments.paths import EXPERIMENTS, ROOT

PACKAGES = ("lpc", "experiments")
_NAMED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?::\w+)?")
"""A module, or a name in one, as a string: ``package.module:name``."""
_EVERYTHING = "*"
_PATHS = paths.__name__


class _Names(NamedTuple):
    """Full names of the project that one file uses or passes on.

    Attributes
    ----------
    used
        Names that its code may use, including code within functions; ``package.*`` if it uses a package
        itself.
    passed_on
        All imported names, including those for type checkers only: full names by the file's own names.
    """

    used: frozenset[str]
    passed_on: dict[str, str]


def files(cells: Sequence[str], *, root: Path = ROOT) -> list[Path]:
    """Return the project's files on which a notebook's code depends, sorted.

    Parameters
    ----------
    cells
        Code of a notebook, cell by cell.
    root
        Folder of the project.

    Returns
    -------
    list of Path
        Modules, and the data files or folders that they name by constants of :mod:`experiments.paths`.

    Raises
    ------
    SyntaxError
        If the code, or an imported module, is not Python.
    """
    python = "\n".join(TransformerManager().transform_cell(cell) for cell in cells)
    todo, seen, found = list(_names(python).used), set(), set()
    modules = _modules(root)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        module, rest = _split(name, modules)
        if module is None:
            continue
        path = modules[module]
        own = _names(path.read_text())
        passed_on = own.passed_on.get(rest[0]) if rest else None
        if passed_on:
            todo.append(".".join([passed_on, *rest[1:]]))
        if path.name == "__init__.py" and (passed_on or not rest):
            continue  # importing a name from it runs it, but uses no other of its names
        if module == _PATHS and rest:
            found.update(_data(rest[0], root))
        found.add(path)
        todo += own.used
    return sorted(found)


def _modules(root: Path) -> dict[str, Path]:
    """Return the files of the project's modules by their full names."""
    found = {}
    for path in (one for package in PACKAGES for one in root.joinpath(package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _split(name: str, modules: Mapping[str, Path]) -> tuple[str | None, list[str]]:
    """Split a full name into the module that has it, None if there is none, and the rest of the name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (module := ".".join(parts[:length])) in modules:
            return module, parts[length:]
    return None, parts


def _data(constant: str, root: Path) -> Iterator[Path]:
    """Yield the data files that a constant of :mod:`experiments.paths` names, or all of them for ``*``.

    Data lie beside the code in ``experiments/``; other paths are the user's, or are outputs. A folder's files
    that have a constant of their own do not count.
    """
    constants = {
        name: root / value.relative_to(ROOT)
        for name, value in vars(paths).items()
        if isinstance(value, Path) and EXPERIMENTS in value.parents
    }
    for name, place in constants.items():
        if constant not in (name, _EVERYTHING):
            continue
        others = [path for path in constants.values() if place in path.parents]
        for path in [place, *place.rglob("*")]:
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)  # being written
            if path.is_file() and not hidden and not any(one in (path, *path.parents) for one in others):
                yield path


@cache
def _names(code: str) -> _Names:
    """Return the project's names that occur in code."""
    reader = _Reader()
    reader.visit(ast.parse(code))
    used = set(reader.strings)
    for name, wanted in reader.bound.items():
        used.update(wanted)
        for full in wanted:
            used.update(".".join([full, *(rest or (_EVERYTHING,))]) for rest in reader.uses.get(name, ()))
    return _Names(frozenset(used), reader.passed_on)


class _Reader(ast.NodeVisitor):
    """Collects imports, the attributes taken from each imported name, and modules named in strings."""

    def __init__(self) -> None:
        self.bound: dict[str, set[str]] = {}
        self.passed_on: dict[str, str] = {}
        self.uses: dict[str, set[tuple[str, ...]]] = {}
        self.strings: set[str] = set()
        self.only_types = False

    def _bind(self, name: str, full: str) -> None:
        if full.partition(".")[0] not in PACKAGES:
            return
        self.passed_on[name] = full
        if not self.only_types:
            self.bound.setdefault(name, set()).add(full)

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            name = item.asname or item.name.partition(".")[0]
            self._bind(name, item.name if item.asname else name)
            if not item.asname:
                self._bind(f"{name}.", item.name)  # code cannot have such a name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            raise SyntaxError(f"a relative import in line {node.lineno}: {ast.unparse(node)}")
        for item in node.names:
            self._bind(item.asname or item.name, f"{node.module}.{item.name}")

    def visit_If(self, node: ast.If) -> None:
        before = self.only_types
        self.only_types = before or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self.only_types = before
        for child in [node.test, *node.orelse]:
            self.visit(child)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.uses.setdefault(inner.id, set()).add(tuple(reversed(parts)))
        else:
            self.visit(inner)

    def visit_Name(self, node: ast.Name) -> None:
        self.uses.setdefault(node.id, set()).add(())

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            self.strings.add(node.value.replace(":", "."))
