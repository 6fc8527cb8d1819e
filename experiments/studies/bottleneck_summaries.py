"""Summaries of a run in Kirsch et al.'s figures, one number each: gaps, knees, rises and falls."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

KEPT = 0.9
"""Share of the best test accuracy below which a latent counts as too small for its noise."""


def with_summaries(frame: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return a table of runs with columns of summaries; a value that does not apply to a run is NaN.

    Parameters
    ----------
    frame
        Table with one row per run.
    history
        Table with one row per run and recorded epoch.

    Returns
    -------
    DataFrame
        Table with ``decoder_gap``: the decoder's cross-entropy minus the decoder uncertainty (Figure 3).
        ``bound_slack``: the bound of Observation 3 minus the probability of a wrong class. ``accuracy_lost``:
        the best test accuracy over epochs minus the last (Figure 4), with noise if there is any.
        ``knee_information``: I[X; Z] in the last epoch whose test accuracy is at least 90 % of the best.
        ``last_log10_sd``: the latent's sd in the last epoch whose loss was finite. ``plane_excess``: the
        residual information above the least that I[X; Z] allows if labels are certain, max(0, H[Y] - I[X; Z])
        (Figure 6). ``information_rise``, ``information_fall``: the largest I[X; Z] over epochs minus the
        first, and minus the last (Figure 1).
    """
    table = frame.copy()
    table["decoder_gap"] = _column(table, "decoder_cross_entropy") - _column(table, "decoder_uncertainty")
    bound = 1 - np.exp(-_column(table, "decoder_cross_entropy"))
    table["bound_slack"] = bound - _column(table, "stochastic_error")
    least = (_column(table, "label_entropy") - _column(table, "preserved_information")).clip(lower=0)
    table["plane_excess"] = _column(table, "residual_information") - least
    over_epochs = {key: _over_epochs(rows.sort_values("epoch")) for key, rows in history.groupby("key")}
    for name in ("accuracy_lost", "knee_information", "information_rise", "information_fall", "last_epoch"):
        table[name] = [over_epochs.get(key, {}).get(name, math.nan) for key in table["key"]]
    sd, factor = _column(table, "train.latent_sd"), _column(table, "train.latent_sd_factor")
    table["last_log10_sd"] = np.log10(sd) + (table["last_epoch"] - 1) * np.log10(factor)
    return table.drop(columns="last_epoch")


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        return pd.Series(math.nan, index=table.index)
    return pd.to_numeric(table[name], errors="coerce")


def _over_epochs(rows: pd.DataFrame) -> dict[str, float]:
    noisy = _column(rows, "noisy_test_accuracy")
    accuracy = noisy.where(noisy.notna(), _column(rows, "test_accuracy")).reset_index(drop=True)
    information = _column(rows, "preserved_information").reset_index(drop=True)
    kept = accuracy >= KEPT * accuracy.max()
    lost = bool(kept.any()) and not bool(kept.iloc[-1])
    return {
        "accuracy_lost": float(accuracy.max() - accuracy.iloc[-1]),
        "knee_information": float(information[kept].iloc[-1]) if lost else math.nan,
        "information_rise": float(information.max() - information.iloc[0]),
        "information_fall": float(information.max() - information.iloc[-1]),
        "last_epoch": float(rows["epoch"].iloc[-1]),
    }
