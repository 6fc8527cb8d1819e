"""Tables of the runs with surrogate regularizers: where they end, and how they get there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from experiments.studies.bottlenecks import SURROGATES, name_of

PRESERVED, RESIDUAL = "preserved_information", "residual_information"
LATE = 0.8
"""Share of the epochs after which training counts as late."""


def of_surrogates(rows: pd.DataFrame, gammas: Sequence[float]) -> pd.DataFrame:
    """Return the rows of Observation 8's runs, with the additional columns ``regularizer`` and ``weight``.

    Parameters
    ----------
    rows
        Table with a column ``architecture``, the runs' names; other runs are left out.
    gammas
        Weights of the regularizers.

    Raises
    ------
    ValueError
        If no row belongs to such a run.
    """
    known = {name_of(name, gamma): (name, gamma) for name in SURROGATES for gamma in gammas}
    own = rows[rows["architecture"].isin(list(known))].copy()
    if own.empty:
        raise ValueError(f"no run of a surrogate with a gamma in {list(gammas)} among {len(rows)} rows")
    own["regularizer"] = [known[str(name)][0] for name in own["architecture"]]
    own["weight"] = [known[str(name)][1] for name in own["architecture"]]
    return own


def medians(table: pd.DataFrame, regularizer: str) -> pd.DataFrame:
    """Return the median over trials of every numeric column of a regularizer's runs, one row per gamma.

    Parameters
    ----------
    table
        Table from :func:`of_surrogates`.
    regularizer
        Regularizer, a name in :data:`experiments.studies.bottlenecks.SURROGATES`.
    """
    own = table[table["regularizer"] == regularizer]
    return own.select_dtypes("number").groupby(own["weight"]).median()


def side_by_side(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return medians over trials, one row per gamma, with columns by (regularizer, column).

    Parameters
    ----------
    table
        Table from :func:`of_surrogates`.
    columns
        Columns of the table.
    """
    return pd.concat({name: medians(table, name)[list(columns)] for name in SURROGATES}, axis="columns")


def rate_drops(rows: pd.DataFrame) -> pd.Series:
    """Return how drops of the learning rate coincide with falls of one run's residual information.

    Parameters
    ----------
    rows
        History of one run, in any order.

    Returns
    -------
    Series
        ``drops``: number of pairs of consecutive records between which the rate fell; ``at_first``: residual
        information, in nats, at the record before the first drop, NaN if there is none; ``with``,
        ``without``: total fall of the residual information over pairs with and without a drop, in nats.
    """
    ordered = rows.sort_values("epoch")
    fallen = -ordered[RESIDUAL].diff()
    dropped = ordered["learning_rate"].diff() < 0
    before = ordered[RESIDUAL].shift()[dropped]
    return pd.Series(
        {
            "drops": float(dropped.sum()),
            "at_first": float(before.iloc[0]) if len(before) else math.nan,
            "with": float(fallen[dropped].sum()),
            "without": float(fallen[~dropped].sum()),
        }
    )


def course(history: pd.DataFrame) -> pd.DataFrame:
    """Return the course of one regularizer's runs, one row per gamma: medians over trials.

    Parameters
    ----------
    history
        Table with one row per run and recorded epoch, from :func:`of_surrogates`.

    Returns
    -------
    DataFrame
        Columns ``first``, ``largest``, ``last``: values of I[X; Z] in nats; ``in_epoch``: the epoch of the
        largest; ``late_fall``: the fall from the first record in the last fifth of the epochs to the last
        record; and the columns of :func:`rate_drops`.

    Raises
    ------
    ValueError
        If the history does not have exactly one regularizer.
    """
    if (found := history["regularizer"].nunique()) != 1:
        raise ValueError(f"history has {found} regularizers; expected one")
    rows = {}
    for weight, own in history.groupby("weight"):
        kept = own.groupby("epoch")[PRESERVED].median()
        late = kept[kept.index >= LATE * kept.index.max()]
        trials = pd.DataFrame([rate_drops(trial) for _, trial in own.groupby("seed")])
        rows[weight] = {
            "first": kept.iloc[0],
            "largest": kept.max(),
            "in_epoch": kept.idxmax(),
            "last": kept.iloc[-1],
            "late_fall": late.iloc[0] - kept.iloc[-1],
            **trials.median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
