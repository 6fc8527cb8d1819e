"""Tables that a notebook keeps as CSV beside the HTML that a page shows: what readers take with them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

MIME = "text/csv"
"""The representation of an output that holds the CSV; its metadata hold the caption."""


class CsvStyler(Styler):
    """A styled table whose output in a notebook holds the table as CSV, too.

    The CSV is of the data: what formatters put around them for a page, marks or colours, is not in it.
    """

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        del include, exclude
        hidden = all(self.hide_index_)  # pyright: ignore[reportAttributeAccessIssue]
        return bundle(self.data, str(self.caption or ""), index=not hidden)  # pyright: ignore


def bundle(
    table: pd.DataFrame, caption: str, *, index: bool = True
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return a table as part of an output, by mime type, and its metadata: the caption.

    Parameters
    ----------
    table, index
        As for :func:`to_csv`.
    caption
        What is in it.
    """
    return {MIME: to_csv(table, index=index)}, {MIME: {"caption": caption}}


def to_csv(table: pd.DataFrame, *, index: bool = True) -> str:
    """Return a table as CSV with one row of headings; values are written as they are.

    Headings of several levels are joined: ``laptop (ours): tr Σ_W``. A column without a heading is called
    ``value``, rows without a name for what they are ``row``.

    Parameters
    ----------
    table
        Any; labels of rows that are shown once for several rows stand in each.
    index
        Whether the labels of the rows are among the columns.
    """
    plain = table.set_axis([_heading(one, "value") for one in table.columns], axis="columns")
    labels = [_heading("" if name is None else name, "row") for name in table.index.names]
    return plain.to_csv(index=index, index_label=labels if index else None, lineterminator="\n")


def _heading(label: object, otherwise: str) -> str:
    parts = label if isinstance(label, tuple) else (label,)
    return ": ".join(str(part) for part in parts if str(part)) or otherwise
