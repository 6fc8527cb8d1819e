"""One line of a report, and the sheet for such lines: a value, or the reason why it is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value of a report.

    Attributes
    ----------
    topic
        Title of the section.
    key
        Name for programs, unique together with ``data``.
    data
        Set that the value belongs to: ``"train"``, ``"test"`` or ``"outside"``.
    name
        Name for people.
    value
        Value; None: missing.
    unit
        Empty for plain numbers.
    how
        Convention, sample and options of the computation.
    guide
        Advice on how to read the value.
    references
        Values for comparison, by name.
    flag
        Reason why the value may mislead; empty: nothing speaks against it.
    missing
        Reason why there is no value; empty: there is one.
    """

    topic: str
    key: str
    data: str
    name: str
    value: float | None
    unit: str = ""
    how: str = ""
    guide: str = ""
    references: Mapping[str, float] = field(default_factory=dict)
    flag: str = ""
    missing: str = ""


def sections(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Return the lines by section and set of points."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for one in entries:
        found.setdefault((one.topic, one.data), []).append(one)
    return found


def all_missing(entries: Sequence[Entry]) -> str:
    """Return the one reason why a whole section is missing; empty if a value exists or the reasons differ."""
    reasons = {one.missing for one in entries}
    if len(reasons) > 1 or "" in reasons:
        return ""
    return f"missing, all {len(entries)} values: {reasons.pop()}"


class Once(Generic[T]):
    """A result for several lines: computed on first use; an error is raised again on every use.

    Parameters
    ----------
    function
        Function that computes the result.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._found: list[T] = []
        self._error: ValueError | None = None
        self.said: list[str] = []

    def __call__(self) -> T:
        """Return the result."""
        if self._error is not None:
            raise self._error
        if not self._found:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    self._found.append(self._function())
                except ValueError as error:
                    self._error = error
                    raise
                finally:
                    self.said = list(dict.fromkeys(str(one.message) for one in caught))
        return self._found[0]


class Sheet:
    """Lines of one section about one set of points.

    Parameters
    ----------
    topic, data
        Title of the section and name of the set, for all lines.
    """

    def __init__(self, topic: str, data: str) -> None:
        self.topic, self.data = topic, data
        self.entries: list[Entry] = []

    def add(
        self,
        key: str,
        name: str,
        value: Callable[[], float | int | None],
        *,
        unit: str = "",
        how: str = "",
        guide: str = "",
        references: Mapping[str, Callable[[], float] | float | None] | None = None,
        flag: str | Callable[[float], str] = "",
        missing: str = "",
    ) -> float | None:
        """Write a line and return its value; a ValueError becomes the reason why there is none.

        Parameters
        ----------
        key, name, unit, how, guide
            The fields of :class:`Entry`.
        value
            Value, or a function that computes it; None: missing, for the reason ``missing``.
        references
            Numbers for comparison, or functions that compute them; those that fail are left out.
        flag
            Reason why the value may mislead, or a function from the value to such a reason.
        missing
            Reason for a missing value when ``value`` is or gives None.
        """
        reason, found, said = missing, None, ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = value()
            except ValueError as error:
                reason = str(error)
            said = "; ".join(dict.fromkeys(str(one.message) for one in caught))
        number = None if found is None else float(found)
        text = "" if number is None else flag if isinstance(flag, str) else flag(number)
        self.entries.append(
            Entry(
                topic=self.topic,
                key=key,
                data=self.data,
                name=name,
                value=number,
                unit=unit,
                how=how,
                guide=guide,
                references={} if number is None else _known(references or {}),
                flag="; ".join(part for part in (text, said) if part),
                missing="" if number is not None else reason or "not given",
            )
        )
        return number


def _known(references: Mapping[str, Callable[[], float] | float | None]) -> dict[str, float]:
    found = {}
    for name, value in references.items():
        try:
            with warnings.catch_warnings():  # its line has reported them already
                warnings.simplefilter("ignore")
                number = value() if callable(value) else value
        except ValueError:
            continue
        if number is not None:
            found[name] = float(number)
    return found
