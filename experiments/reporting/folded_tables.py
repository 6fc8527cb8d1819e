"""Wide tables: they show the columns that a reader compares first, and fold the others below."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import pandas as pd

from experiments.reporting.csv_tables import CsvStyler, bundle

MOST = 8
"""Largest number of columns shown side by side, including the row labels."""
PAPERS = "paper"
"""How the headings of a paper's own columns begin; these are never folded."""


class FoldedTable(NamedTuple):
    """A table of which a page shows some columns and folds the others; its CSV has all.

    Attributes
    ----------
    table
        The whole table.
    caption
        Caption of the table.
    first
        Positions of the unfolded columns, in order.
    classes
        CSS classes of the HTML table.
    """

    table: pd.DataFrame
    caption: str
    first: list[int]
    classes: str

    def _repr_html_(self) -> str:
        others = [place for place in range(self.table.shape[1]) if place not in self.first]
        names = ", ".join(dict.fromkeys(_name(self.table.columns[place]) for place in others))
        told = f"{len(others)} more column{'s' * (len(others) > 1)}: {names}"
        more = styled(self.table.iloc[:, others], f"The same rows: {escape(names)}.", self.classes).to_html()
        shown = styled(self.table.iloc[:, self.first], self.caption, self.classes).to_html()
        return f'{shown}<details class="more"><summary>{escape(told)}</summary>{more}</details>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        del include, exclude
        return bundle(self.table, self.caption)


def styled(table: pd.DataFrame, caption: str, classes: str) -> CsvStyler:
    """Return a table of texts with a caption, styled as HTML with the given CSS classes."""
    made = CsvStyler(table).set_caption(caption).set_table_attributes(f'class="{classes}"')
    for axis in (0, 1):
        made = made.format_index(escape="html", axis=axis)
    return made.format(escape="html")  # pyright: ignore


def first_columns(table: pd.DataFrame) -> list[int]:
    """Return the positions of the columns to show unfolded: all of them if there are at most :data:`MOST`.

    Of a wider table, these are the paper's own columns and, while there is room, the first column of every
    other group, then the second of every group, and so on.
    """
    total, room = table.shape[1], MOST - table.index.nlevels
    if total <= room:
        return list(range(total))
    groups: dict[str, list[int]] = {}
    for place, column in enumerate(table.columns):
        groups.setdefault(str(column[0]) if isinstance(column, tuple) else "", []).append(place)
    papers = [place for name, own in groups.items() if name.startswith(PAPERS) for place in own]
    others = [own for name, own in groups.items() if not name.startswith(PAPERS)]
    ranked = [own[rank] for rank in range(total) for own in others if rank < len(own)]
    return sorted([*papers, *ranked[: max(1, room - len(papers))]])


def _name(column: object) -> str:
    return str([one for one in column if str(one)][-1]) if isinstance(column, tuple) else str(column)
