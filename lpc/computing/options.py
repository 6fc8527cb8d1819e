"""Options of functions: names, whole numbers and numbers, checked in one way and named in the error."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any, get_args

import numpy as np


def choice(name: str, value: object, options: Any) -> None:
    """Raise a ValueError that names ``name`` unless ``value`` is one of some strings.

    Parameters
    ----------
    name
        What the option is called.
    value
        What was given.
    options
        A ``Literal`` of strings, or the strings.
    """
    known: Iterable[str] = get_args(options) or options
    known = list(known)
    if isinstance(value, str) and value in known:
        return
    *some, last = [repr(option) for option in known]
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} is {value!r}; expected {', '.join(some)}{' or ' * bool(some)}{last}{hint}")


def whole(name: str, value: object, *, least: int | None = 1, most: int | None = None, of: str = "") -> int:
    """Return a whole number as an int; a ValueError that names it where it is none or out of range.

    Parameters
    ----------
    name
        What the option is called.
    value
        An int, or a NumPy integer; not a bool, nor a float that happens to be whole.
    least, most
        The range, ends included; None: no end.
    of
        What the range depends on, for the message: ``"5 points"``.
    """
    number = None if isinstance(value, (bool, np.bool_)) else _index(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        of = f" for {of}" if of else ""
        raise ValueError(f"{name} is {value!r}{of}; expected {_range('an integer', least, most)}")
    return number


def _index(value: object) -> int | None:
    if not isinstance(value, (int, np.integer)):
        return None
    return operator.index(value)


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number as a float; a ValueError that names it where it is none or out of range.

    Parameters
    ----------
    name
        What the option is called.
    value
        An int or a float, of Python or NumPy; not a bool.
    least, most, above, below
        The range, its ends included or not; None: no end.
    """
    given = value
    real = isinstance(given, (int, float, np.integer, np.floating)) and not isinstance(given, bool)
    found = float(given) if real else math.nan  # type: ignore[arg-type]
    inside = math.isfinite(found) and not (
        (least is not None and found < least)
        or (most is not None and found > most)
        or (above is not None and found <= above)
        or (below is not None and found >= below)
    )
    if not inside:
        expected = _range("a finite number", least, most, above, below)
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return found


def flag(name: str, value: object) -> bool:
    """Return a bool; a ValueError that names it where it is none (a string would count as True)."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def _range(
    kind: str,
    least: float | None,
    most: float | None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    if above == 0 and most is None and below is None:
        return "a positive number"
    if least is not None and most is not None:
        return f"{kind} from {least} to {most}"
    parts = []
    if least is not None:
        parts.append(f"{least} or more")
    if above is not None:
        parts.append(f"above {above}")
    if most is not None:
        parts.append(f"at most {most}")
    if below is not None:
        parts.append("below pi / 2" if below == math.pi / 2 else f"below {below}")
    return f"{' and '.join(parts)}" if parts else kind
