"""Writes, from recorded runs, the book's values that the library's reports show beside a user's."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from experiments.paths import RESULTS, ROOT

TARGET = ROOT / "lpc" / "reporting" / "book.json"
PROFILE, ARCHITECTURES = "fashion-cpu", ("IB", "NoPen")
COLUMNS = {
    "accuracy": "accuracy",
    "test accuracy": "test_accuracy",
    "nearest_mean_accuracy": "nearest_mean_accuracy",
    "test nearest_mean_accuracy": "test_nearest_mean_accuracy",
    "trace_ratio": "trace_ratio",
    "norm_variation": "coefficient_of_variation",
    "nc1_per_rank": "nc1_per_rank",
    "equinorm": "nc_equinorm",
    "equiangularity": "nc_equiangularity",
    "max_angle": "nc_max_angle",
    "nc3": "nc3",
    "nc4": "nc4",
    "binarity_mu": "binarity_mu",
    "cube_variation": "cube_spread",
    "test calibration_error": "test_ece",
}
"""Column of the recorded runs for each value of a report."""


def values(folder: Path = RESULTS / PROFILE) -> dict[str, dict[str, float]]:
    """Return the means over the selected runs, by value and architecture.

    Parameters
    ----------
    folder
        Folder of the recorded runs.
    """
    runs = pd.read_csv(folder / "runs.csv")
    runs = runs[runs["selected"].astype(str) == "True"]
    return {
        key: {
            name: float(f"{runs.loc[runs['architecture'] == name, column].mean():.6g}")
            for name in ARCHITECTURES
        }
        for key, column in COLUMNS.items()
    }


def write(target: Path = TARGET) -> None:
    """Write the values to the file that the library reads.

    Parameters
    ----------
    target
        Path of the file.
    """
    target.write_text(json.dumps(values(), indent=1) + "\n")
