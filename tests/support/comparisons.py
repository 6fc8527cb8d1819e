"""Which tests of a file compare numbers: within a tolerance, or as larger and smaller."""

import ast
import re
from functools import cache
from pathlib import Path

TOLERANT = re.compile(r"\b(approx|assert_close|allclose|isclose|assert_allclose|rtol|atol)\b")
ORDERING = re.compile(r"\bassert\b[^\n]*\s[<>]=?\s")


def compares(test: str, path: Path) -> bool:
    """Whether a test of a file that has tolerances compares numbers: other kernels round them otherwise."""
    return test in comparing(path)


@cache
def comparing(path: Path) -> frozenset[str]:
    """Return the functions, classes and constants of a file with tolerances in which numbers are compared.

    One that names another, as a helper, a case, a fixture or a base, compares what that compares.
    """
    text = path.read_text()
    if not TOLERANT.search(text):
        return frozenset()
    own: dict[str, str] = {}
    for node in ast.parse(text).body:
        names = map(_name, node.targets) if isinstance(node, ast.Assign) else [getattr(node, "name", None)]
        parts = [*getattr(node, "decorator_list", []), node]
        source = "\n".join(ast.get_source_segment(text, part) or "" for part in parts)
        own.update(dict.fromkeys(filter(None, names), source))
    found = {name for name, source in own.items() if TOLERANT.search(source) or ORDERING.search(source)}
    words = {name: set(re.findall(r"\w+", source)) for name, source in own.items()}
    while more := {name for name in own.keys() - found if words[name] & found}:
        found |= more
    return frozenset(found)


def _name(target: ast.expr) -> str | None:
    return target.id if isinstance(target, ast.Name) else None
