"""Tables that a notebook keeps twice: as HTML for the page, and as CSV for readers to download."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

MIME = "text/csv"
"""Mime type under which an output holds the CSV; its metadata hold the caption."""


class CsvStyler(Styler):
    """A styled table whose output in a notebook also holds the table as CSV.

    The CSV has only the data, without the marks or colours that formatters add for a page. On the page, the
    name of the row labels stands in the same line as the columns' headings.

    Parameters
    ----------
    table
        Table to show.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        super().__init__(_headed_once(table))

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        del include, exclude
        hidden = all(self.hide_index_)  # pyright: ignore[reportAttributeAccessIssue]
        return bundle(self.data, str(self.caption or ""), index=not hidden)  # pyright: ignore


def bundle(
    table: pd.DataFrame, caption: str, *, index: bool = True
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the entries of an output's data and metadata, by mime type, that hold a table and its caption.

    Parameters
    ----------
    table, index
        Arguments of :func:`to_csv`.
    caption
        Caption of the table.
    """
    return {MIME: to_csv(table, index=index)}, {MIME: {"caption": caption}}


def to_csv(table: pd.DataFrame, *, index: bool = True) -> str:
    """Return a table as CSV with one row of headings; values are written unchanged.

    Headings of several levels are joined: ``laptop (ours): tr Σ_W``. A column without a heading is called
    ``value``, unnamed rows are called ``row``.

    Parameters
    ----------
    table
        Any table; a row label that a page shows once for several rows is repeated in each.
    index
        Whether to include the row labels as columns.
    """
    plain = table.set_axis([_heading(one, "value") for one in table.columns], axis="columns")
    names = table.columns.names[-1:] if _is_headed_once(table) else table.index.names
    labels = [_heading("" if name is None else name, "row") for name in names]
    return plain.to_csv(index=index, index_label=labels if index else None, lineterminator="\n")


def _headed_once(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the name of its row labels in the corner, instead of on a line of its own."""
    if table.index.nlevels > 1 or table.index.name is None or any(table.columns.names):
        return table
    corner = [*table.columns.names[:-1], table.index.name]
    return table.rename_axis(index=None).rename_axis(columns=corner)


def _is_headed_once(table: pd.DataFrame) -> bool:
    return table.index.nlevels == 1 and table.index.name is None and table.columns.names[-1] is not None


def _heading(label: object, otherwise: str) -> str:
    parts = label if isinstance(label, tuple) else (label,)
    return ": ".join(str(part) for part in parts if str(part)) or otherwise
