"""Tables of the book: measured values over seeds, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from experiments.reporting import paper
from experiments.reporting.folded_tables import FoldedTable, first_columns, styled
from experiments.studies.recorded import Recorded, all_recorded
from experiments.studies.study import Study
from lpc.errors import unknown_name

NOT_RUN = "not run"
"""Content of a cell if nothing has been run."""
REPORTED = "paper (reported; not run here)"
"""Heading of the paper's values on data sets on which this project has not run anything."""
REPORTED_AND_RUN = "paper (reported)"
"""Heading of the paper's values on data sets on which this project has run the same."""
BESIDE = 2
"""Number of columns for all recorded profiles together; each shows the live profile's first columns."""
POINTS = 3
"""Largest number of runs that are shown one by one, because their standard deviation would mean nothing."""
MISSING = "–"
"""Content of a cell if the paper gives no value, or a run's value could not be computed."""


def number(value: float, digits: int = 3) -> str:
    """Return a number as text with some significant digits, in scientific notation outside 1e-3 to 1e4."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def over_seeds(values: Sequence[float] | pd.Series, *, digits: int = 3, signed: bool = False) -> str:
    """Return values over seeds as text: one by one if there are at most :data:`POINTS`, else ``mean ± sd``.

    The standard deviation of two or three values says almost nothing about the spread, but would be mistaken
    for an interval. If values are missing, the text says how many there are.

    Parameters
    ----------
    values
        One value per run; NaN or None: missing.
    digits
        Significant digits of the values, or of their mean.
    signed
        Whether to write the sign of positive numbers.
    """
    series = pd.to_numeric(pd.Series(values), errors="coerce")
    there = series.dropna()
    if there.empty:
        return MISSING
    shown = list(there) if len(there) <= POINTS else [float(there.mean())]
    text = ", ".join(("+" if signed and value > 0 else "") + number(value, digits) for value in shown)
    if len(there) > POINTS:
        sd = float(there.std())
        rounding = 1e-12 * float(there.abs().max())  # equal values differ by no more
        text += f" ± {number(sd if sd > rounding else 0.0, 2)}"
    return text if len(there) == len(series) else f"{text} ({len(there)} of {len(series)})"


def measured(
    study: Study | Recorded,
    columns: Mapping[str, str],
    *,
    digits: int = 3,
    percent: Sequence[str] = (),
    others: Sequence[Recorded] | None = None,
) -> pd.DataFrame:
    """Return one row per architecture with the values of the selected runs, by :func:`over_seeds`.

    Parameters
    ----------
    study
        Study with the runs of a profile.
    columns
        Headings by column of ``study.selected``.
    digits
        Significant digits of the means.
    percent
        Columns of shares, to be shown in percent.
    others
        Recorded runs to show beside them, as in :func:`beside_recorded`; None: all that exist; ``()``: none.

    Raises
    ------
    ValueError
        If no selected run has a column.
    """
    rows = {}
    chosen = study.selected
    for name in columns:
        if len(chosen) and name not in chosen:
            raise unknown_name("column", name, chosen.columns)
    for architecture in study.profile.variants:
        own = chosen[chosen["architecture"] == architecture]
        if own.empty:
            begun = bool((study.frame["architecture"] == architecture).any())
            rows[architecture] = dict.fromkeys(columns.values(), "failed" if begun else NOT_RUN)
            continue
        rows[architecture] = {
            heading: over_seeds(pd.to_numeric(own[name]) * (100 if name in percent else 1), digits=digits)
            for name, heading in columns.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "architecture"
    return beside_recorded(table, study, columns, digits=digits, percent=percent, others=others)


def beside_recorded(
    table: pd.DataFrame,
    study: Study | Recorded,
    columns: Mapping[str, str],
    *,
    digits: int = 3,
    percent: Sequence[str] = (),
    others: Sequence[Recorded] | None = None,
) -> pd.DataFrame:
    """Return a table under its profile's name, with the columns of recorded profiles under theirs.

    Parameters
    ----------
    table
        Table with one row per architecture; returned unchanged if there is nothing to show beside it.
    study
        Study of the table.
    columns, digits, percent
        Arguments of :func:`measured`. A single recorded profile shows two columns; if there are several, each
        shows one.
    others
        Recorded runs; None: those of every other profile that has any.
    """
    beside = all_recorded(beside=study.profile.name) if others is None else others
    if not beside:
        return table
    kept = dict(list(columns.items())[: max(1, BESIDE // len(beside))])
    parts = {f"{study.profile.name} (ours)": table}
    for one in beside:
        shown = measured(one, kept, digits=digits, percent=percent, others=())
        parts[f"{one.profile.name} (ours)"] = shown.reindex(table.index, fill_value=NOT_RUN)
    return pd.concat(parts, axis="columns")


def _beside_reported(
    ours: pd.DataFrame, study: Study, beside: Sequence[Recorded], values: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """Add the paper's values by data set and architecture; the heading says whether we ran the same."""
    run = {study.profile.name, *(one.profile.name for one in beside)}
    for dataset in paper.DATASETS:
        heading = REPORTED_AND_RUN if f"paper-{dataset.lower()}" in run else REPORTED
        ours[(heading, dataset)] = [values[dataset].get(name, MISSING) for name in ours.index]
    return ours


def beside_paper(
    study: Study,
    columns: Mapping[str, str],
    metric: str,
    *,
    percent: Sequence[str] = (),
    others: Sequence[Recorded] | None = None,
) -> pd.DataFrame:
    """Return :func:`measured`'s columns under the profiles' names, and the paper's under its data sets.

    Parameters
    ----------
    study, columns, percent, others
        Arguments of :func:`measured`.
    metric
        Name of the metric in the paper's CSV.
    """
    beside = all_recorded(beside=study.profile.name) if others is None else others
    ours = measured(study, columns, percent=percent, others=beside)
    if not beside:
        ours.columns = pd.MultiIndex.from_product([[f"{study.profile.name} (ours)"], ours.columns])
    rows = paper.reported()
    rows = rows[rows["metric"] == metric]
    values: dict[str, dict[str, str]] = {dataset: {} for dataset in paper.DATASETS}
    for row in rows.itertuples():
        values[str(row.dataset)][str(row.architecture)] = printed(row.mean, row.std)
    return _beside_reported(ours, study, beside, values)


def printed(mean: float, sd: float) -> str:
    """Return a value of the paper as text; very small ones are rounded, because only their scale matters."""
    return f"{mean:.6g} ± {sd:.6g}" if abs(mean) >= 1e-3 else f"{number(mean)} ± {number(sd, 2)}"


def ratios(
    study: Study,
    column: str,
    metric: str,
    *,
    baseline: str = "NoPen",
    others: Sequence[Recorded] | None = None,
) -> pd.DataFrame:
    """Return every architecture's value divided by a baseline's: ours by seed, the paper's by printed means.

    Parameters
    ----------
    study, others
        Arguments of :func:`measured`.
    column
        Column of ``study.selected``.
    metric
        Name of the metric in the paper's CSV.
    baseline
        Architecture to divide by.

    Raises
    ------
    ValueError
        If the profile's table of architectures lacks the baseline.
    """
    names = list(study.profile.variants)
    if baseline not in names:
        raise unknown_name(f"baseline of profile {study.profile.name}", baseline, names)
    beside = all_recorded(beside=study.profile.name) if others is None else others
    found = {}
    for one in (study, *beside):
        table = one.selected.pivot_table(index="seed", columns="architecture", values=column, dropna=False)
        ours = table.reindex(columns=names)
        ours = ours.div(ours[baseline], axis=0)
        found[(f"{one.profile.name} (ours)", "ratio")] = {name: over_seeds(ours[name]) for name in names}
    result = pd.DataFrame(found)
    result.index.name = "architecture"
    rows = paper.reported()
    rows = rows[rows["metric"] == metric]
    values: dict[str, dict[str, str]] = {}
    for dataset in paper.DATASETS:
        means = rows[rows["dataset"] == dataset].set_index("architecture")["mean"]
        values[dataset] = {str(name): number(mean / means[baseline], 2) for name, mean in means.items()}
    return _beside_reported(result, study, beside, values)


def profiles_of(study: Study, *, others: Sequence[Recorded] | None = None) -> str:
    """Return the names of the profiles that tables show: the live one, then the recorded ones."""
    beside = all_recorded(beside=study.profile.name) if others is None else others
    return ", ".join([study.profile.name, *(f"{one.profile.name} (recorded)" for one in beside)])


def show(table: pd.DataFrame, caption: str, *, wrap: bool = False) -> Styler | FoldedTable:
    """Return a table as the book shows it, with a caption.

    Columns beyond :data:`~experiments.reporting.folded_tables.MOST` are folded below it.

    Parameters
    ----------
    table
        Table whose cells are text; numbers have been formatted.
    caption
        Caption that says what the table shows and where the numbers come from.
    wrap
        Whether cells may break into lines, for tables of text.
    """
    classes = "dataframe wrap" if wrap else "dataframe"
    first = first_columns(table)
    if len(first) == table.shape[1]:
        return styled(table, caption, classes)
    return FoldedTable(table, caption, first, classes)
