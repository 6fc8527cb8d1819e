"""A table of recorded runs by optimizer, width and gamma, for pages."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from experiments.reporting.intervals import interval
from experiments.reporting.tables import MISSING
from experiments.studies.optimizer_tables import Network

COLUMNS: Mapping[str, str] = {
    "cube_spread": "spread, nodes",
    "cube_spread_optimizer": "spread, optimizer's axes",
    "binarity_mu": "μ̄ (sds)",
    "cube_patterns": "sign patterns",
    "trace_ratio": "tr Σ_W / tr Σ_B",
    "nc_max_angle": "max. angle",
    "accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}
"""Headings of the table's columns."""


def by_optimizer(runs: pd.DataFrame, columns: Mapping[str, str] = COLUMNS) -> pd.DataFrame:
    """Return one row per optimizer, width and gamma: means over n seeds with their 95 % intervals, and n.

    Parameters
    ----------
    runs
        Selected runs of ``cube`` or ``cube-long``.
    columns
        Headings by column of ``runs``; columns that no run has are left out.
    """
    rows = {}
    for name, own in runs.groupby("architecture", sort=False):
        network = Network.named(str(name))
        cells = {heading: _cell(own, column) for column, heading in columns.items() if column in runs}
        rows[network.optimizer, str(network.width), f"{network.gamma:g}"] = {**cells, "n": str(len(own))}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["optimizer", "nodes", "γ"])
    return table


def _cell(own: pd.DataFrame, column: str) -> str:
    values = pd.to_numeric(own[column], errors="coerce").dropna().tolist()
    return str(interval(values, ratio=column == "trace_ratio")) if values else MISSING
