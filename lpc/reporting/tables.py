"""Tables as arrays of a report: columns that are nodes of latents, that are scores, and that are neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def arrays_of(
    table: Any, path: Path, given: Mapping[str, str | None], labels: Sequence[str]
) -> dict[str, Any]:
    """Return the arrays of a table by name.

    All columns of floats together are ``latent``, those called ``logit...`` are ``logits``, and a column of
    lists is an array by itself. A given name of latents or logits is that of a column of lists, or the
    common beginning of their columns' names. Every other column is an array, so that it can be named.

    Parameters
    ----------
    table
        A data frame.
    path
        Name of the table in error messages.
    given
        Names of columns by role, as given by the user.
    labels
        Possible names of the column of labels, in lower case.

    Raises
    ------
    ValueError
        If the first line is numbers, the separator is not a comma, a column of numbers contains text, or no
        column is left for latents.
    """
    names = [str(name) for name in table.columns]
    columns = dict(zip(names, (table.iloc[:, place] for place in range(len(names))), strict=True))
    _check_names(names, path)
    if not len(table):
        raise ValueError(f"{path} has column names but no rows")
    lower = {name.lower(): name for name in reversed(names)}
    label = given.get("labels") or next((lower[name] for name in labels if name in lower), "")
    found: dict[str, Any] = {}
    rest: list[str] = []
    for name, column in columns.items():
        if name == label:
            found[name] = column.to_numpy()
        elif isinstance(column.iloc[0], (list, tuple, np.ndarray)):
            found[name] = _stacked(column, name, path)
        else:
            rest.append(name)
    for role, called in (("logits", "logits"), ("latents", "latent")):
        start = given.get(role)
        if start in found:
            continue
        begin = (start or ("logit" if role == "logits" else "")).lower()
        mine = [
            name
            for name in rest
            if name.lower().startswith(begin) and (start or _floats(columns[name], name, path))
        ]
        if mine:
            found[start or called] = table.iloc[:, [names.index(name) for name in mine]].to_numpy(np.float64)
            rest = [name for name in rest if name not in mine]
    if all(value.ndim < 2 or name == "logits" for name, value in found.items()):
        raise ValueError(
            f"{path} has no column of floats besides labels and logits; expected one per node: for whole "
            f"numbers, pass --latents with the beginning of their names. It has {', '.join(names[:20])}"
        )
    return {**found, **{name: columns[name].to_numpy() for name in rest}}


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(names) == 1:
        other = next((mark for mark in (";", "\t", " ") if mark in names[0]), None)
        if other is not None:
            raise ValueError(f"{path} has columns separated by {other!r}; expected commas")
    if names and all(_is_number(name) for name in names):
        raise ValueError(f"{path} begins with numbers, {names[0]}, ...; expected names of columns first")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _floats(column: Any, name: str, path: Path) -> bool:
    """Return whether a column holds floats; ValueError if some of its entries are text."""
    if column.dtype.kind != "O" and not str(column.dtype).startswith("str"):
        return column.dtype.kind == "f"
    text = [(row, value) for row, value in enumerate(column) if not _is_number(str(value))]
    if len(text) > len(column) / 2:
        return False
    row, value = text[0] if text else (0, column.iloc[0])
    raise ValueError(f"{path} has {value!r} in column {name!r}, row {row + 1}; expected numbers there")


def _stacked(column: Any, name: str, path: Path) -> Any:
    widths = {np.shape(value) for value in column}
    if len(widths) > 1:
        raise ValueError(f"{path} has lists of shapes {sorted(widths)[:3]} in column {name!r}; expected one")
    return np.stack([np.asarray(value) for value in column])
