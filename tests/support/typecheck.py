"""The checker of every signature of `lpc` in tests: beartype, with int accepted for float (PEP 484).

jaxtyping wraps a function so that the names of dimensions mean the same in all of its arguments and results,
which takes 10 to 40 microseconds per call. A function without shapes in its signature has no such names:
beartype alone checks it, in less than one.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_plain = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_shaped = jaxtyping.jaxtyped


def install(*packages: str) -> None:
    """Check every signature of packages that are imported from now on."""
    jaxtyping.jaxtyped = jaxtyped  # which the modules' code names once the hook has changed it
    jaxtyping.install_import_hook(packages, f"{__name__}.checked")


def jaxtyped(decorated: Any = None, *, typechecker: Any) -> Any:
    """Decorate a function or class as `jaxtyping.jaxtyped` does, functions without shapes more cheaply."""
    if decorated is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(decorated, types.FunctionType) or inspect.isgeneratorfunction(decorated):
        return _shaped(decorated, typechecker=typechecker)
    hints = {name: _resolved(hint, decorated) for name, hint in decorated.__annotations__.items()}
    if any(map(_has_shape, hints.values())):
        return _shaped(decorated, typechecker=typechecker)
    return _checked_without_shapes(decorated, hints) if hints else decorated


def _resolved(hint: Any, function: types.FunctionType) -> Any:
    """Return an annotation that may be a string; one whose names are not there yet allows anything."""

    def carrier() -> None: ...

    carrier.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(carrier, function.__globals__, include_extras=True)["hint"]
    except Exception:
        return Any


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, hint if isinstance(hint, list) else get_args(hint)))


def _checked_without_shapes(function: types.FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    parts = (function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy = types.FunctionType(function.__code__, *parts)
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    held = _plain(copy)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else held)(*args, **kwargs)

    return called
