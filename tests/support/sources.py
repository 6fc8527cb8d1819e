"""What a test's source reveals: whether it compares numbers, and whether it starts a Python."""

import ast
import re
from functools import cache
from pathlib import Path

TOLERANT = re.compile(r"\b(approx|assert_close|allclose|isclose|assert_allclose|rtol|atol)\b")
COMPARING = re.compile(rf"{TOLERANT.pattern}|\bassert\b[^\n]*\s[<>]=?\s")
PRETENDING = re.compile(r"\bpretended_gpu\b")
STARTING = re.compile(r"\bwarm\.(run|begin|shell)\b|\bwarm_pages\b|\bsys\.executable\b|\bin_two\(")


def compares(test: str, path: Path) -> bool:
    """Whether a test, in a file that has tolerances, compares numbers that other kernels round otherwise.

    What it compares with a pretended GPU is not among them: both have the kernels of the CPU.
    """
    pretends = test in _naming(path, PRETENDING)
    return bool(TOLERANT.search(_text(path))) and test in _naming(path, COMPARING) and not pretends


def starts_python(test: str, path: Path) -> bool:
    """Return whether a test starts a Python, which takes seconds, even more until one can be forked."""
    return test in _naming(path, STARTING)


@cache
def _naming(path: Path, pattern: re.Pattern[str]) -> frozenset[str]:
    """Return the functions, classes and constants of a file whose source has a pattern.

    One that names another, as a helper, a case, a fixture or a base, has what that has.
    """
    own = _sources(path)
    found = {name for name, source in own.items() if pattern.search(source)}
    if found:
        words = {name: set(re.findall(r"\w+", source)) for name, source in own.items()}
        while more := {name for name in own.keys() - found if words[name] & found}:
            found |= more
    return frozenset(found)


@cache
def _text(path: Path) -> str:
    return path.read_text()


@cache
def _sources(path: Path) -> dict[str, str]:
    """Return the lines of a file's functions, with their decorators, classes and constants, by name."""
    text, own = _text(path), dict[str, str]()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        names = map(_name, node.targets) if isinstance(node, ast.Assign) else [getattr(node, "name", None)]
        first = min(part.lineno for part in [*getattr(node, "decorator_list", []), node])
        own.update(dict.fromkeys(filter(None, names), "\n".join(lines[first - 1 : node.end_lineno])))
    return own


def _name(target: ast.expr) -> str | None:
    return target.id if isinstance(target, ast.Name) else None
