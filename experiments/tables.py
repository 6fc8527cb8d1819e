"""Tables of the book: measured mean and sd over seeds, beside the paper's values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from experiments import paper
from experiments.ablation import Study
from lpc.specs import VARIANTS, unknown_name

NOT_RUN = "not run"
"""What a cell shows where nothing has been run."""
REPORTED = "paper (reported; not run here)"
"""Heading of the paper's own values: nothing on its data sets has been run in this project."""
MISSING = "–"
"""What a cell shows where the paper gives no value, or a run's value could not be computed."""


def number(value: float, digits: int = 3) -> str:
    """Return a number with some significant digits, scientific outside 1e-3 to 1e4."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def mean_sd(values: Sequence[float] | pd.Series, *, digits: int = 3) -> str:
    """Return ``mean ± sd (n)`` of the values that are there; n is shown where some are missing."""
    series = pd.to_numeric(pd.Series(values), errors="coerce")
    there = series.dropna()
    if there.empty:
        return MISSING
    text = number(float(there.mean()), digits)
    if len(there) > 1:
        sd = float(there.std())
        rounding = 1e-12 * float(there.abs().max())  # equal values differ by no more
        text += f" ± {number(sd if sd > rounding else 0.0, 2)}"
    return text if len(there) == len(series) else f"{text} ({len(there)} of {len(series)})"


def measured(
    study: Study, columns: Mapping[str, str], *, digits: int = 3, percent: Sequence[str] = ()
) -> pd.DataFrame:
    """Return one row an architecture with mean ± sd over seeds of the selected runs.

    Parameters
    ----------
    study
        Runs of a profile.
    columns
        Column of ``study.selected`` -> heading.
    digits
        Significant digits of the means.
    percent
        Columns that are shares and are shown in percent.

    Raises
    ------
    ValueError
        A column that no selected run has.
    """
    rows = {}
    chosen = study.selected
    for name in columns:
        if len(chosen) and name not in chosen:
            raise unknown_name("column", name, chosen.columns)
    for architecture in VARIANTS:
        own = chosen[chosen["architecture"] == architecture]
        if own.empty:
            begun = bool((study.frame["architecture"] == architecture).any())
            rows[architecture] = dict.fromkeys(columns.values(), "failed" if begun else NOT_RUN)
            continue
        rows[architecture] = {
            heading: mean_sd(pd.to_numeric(own[name]) * (100 if name in percent else 1), digits=digits)
            for name, heading in columns.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "architecture"
    return table


def beside_paper(
    study: Study, columns: Mapping[str, str], metric: str, *, percent: Sequence[str] = ()
) -> pd.DataFrame:
    """Return :func:`measured`'s columns under the profile's name, and the paper's under its data sets.

    Parameters
    ----------
    study, columns, percent
        As in :func:`measured`.
    metric
        The paper's name of the column in its CSV.
    """
    ours = measured(study, columns, percent=percent)
    ours.columns = pd.MultiIndex.from_product([[f"{study.profile.name} (ours)"], ours.columns])
    table = paper.reported()
    table = table[table["metric"] == metric]
    for dataset in paper.DATASETS:
        own = table[table["dataset"] == dataset].set_index("architecture")
        ours[(REPORTED, dataset)] = [
            f"{own.loc[name, 'mean']:.6g} ± {own.loc[name, 'std']:.6g}" if name in own.index else MISSING
            for name in ours.index
        ]
    return ours


def ratios(study: Study, column: str, metric: str, *, baseline: str = "NoPen") -> pd.DataFrame:
    """Return every architecture's value over a baseline's: ours by seed, the paper's by printed means.

    Parameters
    ----------
    study
        Runs of a profile.
    column
        Of ``study.selected``.
    metric
        The paper's name of the column in its CSV.
    baseline
        The architecture to divide by.
    """
    table = study.selected.pivot_table(index="seed", columns="architecture", values=column, dropna=False)
    ours = table.reindex(columns=list(VARIANTS)).div(table[baseline], axis=0)
    heading = (f"{study.profile.name} (ours)", "mean ± sd of the ratio")
    result = pd.DataFrame({heading: {name: mean_sd(ours[name]) for name in VARIANTS}})
    result.columns = pd.MultiIndex.from_tuples([heading])
    reported = paper.reported()
    for dataset in paper.DATASETS:
        rows = reported[(reported["dataset"] == dataset) & (reported["metric"] == metric)]
        means = rows.set_index("architecture")["mean"]
        result[(REPORTED, dataset)] = [
            number(means[name] / means[baseline], 2) if name in means.index else MISSING for name in VARIANTS
        ]
    result.index.name = "architecture"
    return result


def show(table: pd.DataFrame, caption: str, *, wrap: bool = False) -> Styler:
    """Return a table as the book shows it: with a caption, and as it is (numbers are text already).

    Parameters
    ----------
    table
        Cells are text.
    caption
        What is in it, and whose numbers they are.
    wrap
        Whether cells may break into lines: for tables of text.
    """
    classes = "dataframe wrap" if wrap else "dataframe"
    styled = table.style.set_caption(caption).set_table_attributes(f'class="{classes}"')
    return styled.format_index(escape="html", axis=0).format(escape="html")
