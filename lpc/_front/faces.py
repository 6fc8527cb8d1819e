"""Names that a package offers and imports on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_DEFINITION = r"^(?:def |class |(?=\w+(?:: [^=\n]+)? = ))([A-Za-z]\w*)"
"""The public name that a line of source defines: a function, a class or a constant."""


def face(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package, or of a module.

    It offers the names that its own source imports under ``if TYPE_CHECKING:``, where type checkers read
    them, so that there is no second list. A package also offers its public modules.

    Parameters
    ----------
    module
        Name of the module: its ``__name__``.
    """

    def attribute(name: str) -> Any:
        home = offered(module).get(name)
        if home is not None:
            inner = home == module
            value = import_module(f"{home}.{name}") if inner else getattr(import_module(home), name)
            setattr(sys.modules[module], name, value)
            return value
        modules = _modules(module)
        if name in modules:
            return import_module(f"{module}.{name}")
        if name == "__all__" and modules:
            return sorted(offered(module)) or modules
        hint = "" if name.startswith("_") else _hint(name, module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)

    def listing() -> list[str]:
        own = vars(sys.modules[module]).keys() - {"TYPE_CHECKING", "face", "announce", "RENAMED"}
        return sorted({*own, *offered(module), *_modules(module)})

    return attribute, listing


@cache
def offered(module: str) -> dict[str, str]:
    """Return the names that a module's source imports for type checkers, and the modules they come from."""
    import ast

    blocks = (node for node in ast.parse(_source(module)).body if isinstance(node, ast.If))
    checked = (node for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for node in block.body)
    imports = (node for node in checked if isinstance(node, ast.ImportFrom))
    return {
        item.asname: node.module for node in imports for item in node.names if item.asname and node.module
    }


def _source(module: str) -> str:
    """Return a module's source, without importing it."""
    spec = find_spec(module)
    assert spec is not None and spec.loader is not None
    return spec.loader.get_source(module) or ""  # type: ignore[attr-defined]


@cache
def _modules(package: str) -> list[str]:
    """Return the names of a package's public modules; a plain module has none."""
    import pkgutil

    path = vars(sys.modules[package]).get("__path__", [])
    return [found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_")]


def _hint(name: str, module: str) -> str:
    """Return where the most similar name is, among those that the library's public modules define."""
    from lpc._front.moved import RENAMED
    from lpc.errors import nearest

    if f"{module}.{name}" in RENAMED:
        return f": it is {RENAMED[f'{module}.{name}']} now"
    places: dict[str, list[str]] = {}
    for place, known in _defined(module.partition(".")[0]):
        places.setdefault(known, []).append(f"{place}.{known}")
    if name in places:
        return f"; there is {' and '.join(places[name])}"
    near = nearest(name, places, cutoff=0.75)
    return f". Did you mean {' or '.join(places[near[0]])}?" if near else ""


def _defined(root: str) -> Iterator[tuple[str, str]]:
    """Yield place and name of a package's exports, of its public modules, and of their definitions."""
    import pkgutil
    import re

    first = offered(root)
    yield from ((root, name) for name in first)
    for found in pkgutil.walk_packages(sys.modules[root].__path__, f"{root}."):
        if "._" not in found.name:
            parent, _, name = found.name.rpartition(".")
            names = [name, *re.findall(_DEFINITION, _source(found.name), re.MULTILINE)]
            places = [parent, *[found.name] * (len(names) - 1)]
            yield from (pair for pair in zip(places, names, strict=True) if pair[1] not in first)
