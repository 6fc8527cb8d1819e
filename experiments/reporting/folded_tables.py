"""Wide tables: the columns that a reader compares first, and the others folded below them."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import pandas as pd

from experiments.reporting.csv_tables import CsvStyler, bundle

MOST = 8
"""Columns that are shown side by side, labels of the rows among them."""
PAPERS = "paper"
"""Beginning of the heading of a paper's own columns, which are never folded."""


class FoldedTable(NamedTuple):
    """A table whose page shows some columns and folds the others; its CSV has all.

    Attributes
    ----------
    table
        Whole table.
    caption
        Caption of the table.
    first
        Positions of the columns that are shown at once, in order.
    classes
        Classes of the HTML element.
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
    """Return a table of texts with a caption, as HTML of some classes."""
    made = CsvStyler(table).set_caption(caption).set_table_attributes(f'class="{classes}"')
    for axis in (0, 1):
        made = made.format_index(escape="html", axis=axis)
    return made.format(escape="html")  # pyright: ignore


def first_columns(table: pd.DataFrame) -> list[int]:
    """Return the positions of the columns to show at once: all of them if there are at most :data:`MOST`.

    Of wider tables the paper's own, and of each other group its first column, then its second, and so on,
    until there is no room.
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
