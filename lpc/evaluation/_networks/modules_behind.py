"""The modules behind a function: in bound methods, partials, closures, defaults and globals."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

_DEEPEST = 8
"""Largest number of steps from the function to a module."""
_LONGEST = 1000
"""Largest length of a list that is searched: longer ones are data."""
_LIBRARIES = frozenset(
    [
        "adv_lib",
        "builtins",
        "eagerpy",
        "foolbox",
        "functools",
        "numpy",
        "pandas",
        "pyautoattack",
        "scipy",
        "sklearn",
        "timm",
        "torch",
        "torchvision",
        "transformers",
    ]
)
"""Packages whose functions and objects are not searched."""


def modules_behind(function: object) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules that a function uses, and those it can reach without necessarily using them.

    Parameters
    ----------
    function
        A module, which is then the one used, or a function, method, partial or callable object.

    Returns
    -------
    used, known
        Top-level modules only; the modules inside them are implied.
    """
    used: dict[nn.Module, None] = {}
    known: dict[nn.Module, None] = {}
    seen: set[int] = set()
    left: list[tuple[Any, bool, int]] = [(function, True, 0)]
    while left:
        value, sure, depth = left.pop()
        if isinstance(value, nn.Module):
            (used if sure else known)[value] = None
        elif depth < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            left += [(part, sure and certain, depth + 1) for part, certain in _parts(value)]
    return list(used), [module for module in known if module not in used]


def _parts(value: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the parts of a value, and whether each is used when the value is called."""
    if isinstance(value, functools.partial):
        yield from ((part, True) for part in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield value.__self__, True
        yield value.__func__, True
    elif isinstance(value, FunctionType):
        if _library(value) and not hasattr(value, "__wrapped__"):
            return
        yield getattr(value, "__wrapped__", None), True
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents, True
            except ValueError:  # a name that has no value yet
                continue
        yield from ((part, True) for part in (value.__defaults__ or ()))
        yield from ((part, True) for part in (value.__kwdefaults__ or {}).values())
        if not _library(value):
            names = _globals(value.__code__)
            yield from ((value.__globals__[name], True) for name in names if name in value.__globals__)
    elif isinstance(value, (list, tuple, set, frozenset, dict)):
        if len(value) <= _LONGEST:
            entries = value.values() if isinstance(value, dict) else value
            yield from ((part, True) for part in entries)
    elif not isinstance(value, (type, ModuleType)) and not _library(type(value)):
        yield from ((part, False) for part in getattr(value, "__dict__", {}).values())
        for base in type(value).__mro__:
            if isinstance(call := vars(base).get("__call__"), FunctionType):
                yield call, True


def _library(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "builtins").split(".")[0] in _LIBRARIES


def _globals(code: CodeType) -> set[str]:
    """Return the names of globals that a function reads, also within the functions it makes."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals(part) for part in code.co_consts if isinstance(part, CodeType)))
