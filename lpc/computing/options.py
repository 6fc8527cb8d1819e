"""Checks of options: names, whole numbers and numbers, all named in the error in one way."""

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
        Name of the option.
    value
        Value to check.
    options
        Valid values: a ``Literal`` of strings, or the strings.
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
    """Return a whole number as an int; a ValueError names anything else, or a value out of range.

    Parameters
    ----------
    name
        Name of the option.
    value
        Value to check: an int or a NumPy integer, not a bool, nor a float that happens to be whole.
    least, most
        Limits of the range, ends included; None: no limit.
    of
        Description, for the message, of the range's origin: ``"5 points"``.
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
    """Return a finite number as a float; a ValueError names anything else, or a value out of range.

    Parameters
    ----------
    name
        Name of the option.
    value
        Value to check: an int or a float of Python or NumPy, not a bool.
    least, most, above, below
        Limits of the range: ``least`` and ``most`` are included, ``above`` and ``below`` are not; None: no
        limit.
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
    """Return a bool; a ValueError names anything else (a string would count as True)."""
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
