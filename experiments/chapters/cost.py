"""Tables of times as the page shows them: ratios with their quartiles, targets with their verdicts."""

from __future__ import annotations

import pandas as pd

from experiments.reporting.tables import MISSING


def joined(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with two columns fewer: quartiles and verdicts join the columns to which they belong.

    Parameters
    ----------
    table
        Table of text with the columns ``quartiles``, to the right of the ratio, ``target`` and ``reached``.
    """
    columns = list(table.columns)
    ratio = columns[columns.index("quartiles") - 1]
    shown = table.assign(
        **{
            ratio: _with(table[ratio], table["quartiles"], "{} ({})"),
            "target": _with(table["target"], table["reached"], "{}: {}"),
        }
    )
    names = {ratio: f"{ratio} (quartiles)", "target": "target: reached"}
    return shown.drop(columns=["quartiles", "reached"]).rename(columns=names)


def _with(values: pd.Series, more: pd.Series, form: str) -> list[str]:
    pairs = zip(values, more, strict=True)
    return [one if two == MISSING else form.format(one, two) for one, two in pairs]
