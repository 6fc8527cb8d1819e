"""The paper's own Tables 1 and 2, as printed."""

from __future__ import annotations

from functools import cache

import pandas as pd

from experiments.paths import PAPER_TABLES

EXPERIMENTS = 5
"""Number of independent experiments behind every mean and sd of the paper (Appendix C)."""

DATASETS = ("SVHN", "CIFAR10", "CIFAR100")


@cache
def _tables() -> pd.DataFrame:
    tables = [pd.read_csv(PAPER_TABLES / f"lpc2024_table{number}.csv") for number in (1, 2)]
    return pd.concat(tables, ignore_index=True)


def reported() -> pd.DataFrame:
    """Return the paper's numbers: ``dataset``, ``architecture``, ``metric``, ``mean``, ``std``."""
    return _tables().copy()


def value(dataset: str, architecture: str, metric: str) -> tuple[float, float]:
    """Return the paper's mean and sd, or raise a ValueError that names the missing value."""
    table = reported()
    chosen = (table["dataset"] == dataset) & (table["architecture"] == architecture)
    row = table[chosen & (table["metric"] == metric)]
    if len(row) != 1:
        raise ValueError(
            f"the paper's tables hold {len(row)} values of {metric} for {architecture} on {dataset}"
        )
    return float(row["mean"].iloc[0]), float(row["std"].iloc[0])


def welch(dataset: str, metric: str, *, baseline: str = "NoPen") -> pd.DataFrame:
    """Return Welch's test of every architecture against a baseline, from the printed means and sds.

    Parameters
    ----------
    dataset, metric
        Data set and metric, as in the paper's tables.
    baseline
        Architecture to compare the others with.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``mean``, ``std``, ``difference`` from the baseline and the two-sided ``p``;
        p is missing if both printed sds are zero.
    """
    from scipy.stats import (
        ttest_ind_from_stats,
    )  # importing it takes a second, which training alone need not spend

    table = reported()
    table = table[(table["dataset"] == dataset) & (table["metric"] == metric)].set_index("architecture")
    mean, sd = table.loc[baseline, "mean"], table.loc[baseline, "std"]
    others = table.drop(index=baseline)
    tested = ttest_ind_from_stats(
        others["mean"].to_numpy(),
        others["std"].to_numpy(),
        EXPERIMENTS,
        float(mean),  # type: ignore[arg-type]
        float(sd),  # type: ignore[arg-type]
        EXPERIMENTS,
        equal_var=False,
    )
    p = pd.Series(tested.pvalue, index=others.index).where((others["std"] > 0) | (float(sd) > 0))  # type: ignore[arg-type]
    return pd.DataFrame(
        {
            "architecture": others.index,
            "mean": others["mean"].to_numpy(),
            "std": others["std"].to_numpy(),
            "difference": (others["mean"] - float(mean)).to_numpy(),  # type: ignore[arg-type]
            "p": p.to_numpy(),
        }
    )
