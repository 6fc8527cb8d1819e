"""Metrics as statistics of resampled test images, weighted by how often each image was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

Statistic = Callable[[np.ndarray, pd.DataFrame], np.ndarray]
"""Function that takes each image's counts, (draws, images), and the images' rows, and returns a number per
draw."""


class OfImages(NamedTuple):
    """A metric as a statistic of single images.

    Attributes
    ----------
    probe
        Name of the probe whose table has one row per image (``experiments.studies.probing``).
    statistic
        Statistic of the images that equals the metric if each image counts once.
    """

    probe: str
    statistic: Statistic


SHARES = ("test_accuracy", "corruptions_mean", "attacks_box_black_beats_white")
"""Metrics that are a share of all test images, or a mean of such shares."""
AUROCS = ("test_auroc_mahalanobis_shrunk", "test_auroc_odin")
"""Metrics that are an AUROC of all test images."""
_ABOUT = ("test_", "attacks_", "corruptions_", "factor_", "margins_test_", "margins_directions_test_")
_ABOUT += ("outside_", "transfer_")
_ABOUT_TOO = ("margins_distance_median", "accuracy_lost", "certified_gradient_exceeds")


def about_images(metric: str) -> bool:
    """Return whether a metric of the same networks would change with other test images."""
    certified = metric.startswith("certified_") and metric.endswith("_median")
    return metric.startswith(_ABOUT) or metric in _ABOUT_TOO or certified


def _values(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column, or NaN if the probe could not compute it."""
    return rows[column].to_numpy(dtype=float) if column in rows else np.full(len(rows), np.nan)


def mean(column: str, *, where: str | None = None) -> Statistic:
    """Return the mean of a column over the images that have a value and for which ``where`` is true."""

    def of(counts: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
        value = _values(rows, column)
        kept = ~np.isnan(value) if where is None else ~np.isnan(value) & rows[where].to_numpy(dtype=bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            return counts[:, kept] @ value[kept] / counts[:, kept].sum(axis=1)

    return of


def median(column: str, *, over: str | None = None) -> Statistic:
    """Return the median of a column, or of its ratio to another, over the images that have a value."""

    def of(counts: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
        value = _values(rows, column)
        if over is not None:
            value = value / _values(rows, over)
        order = np.argsort(value)[: int((~np.isnan(value)).sum())]
        if not len(order):
            return np.full(len(counts), np.nan)
        below = counts[:, order].cumsum(axis=1)
        total = below[:, -1]
        low, high = ((below <= place[:, None]).sum(axis=1) for place in ((total - 1) // 2, total // 2))
        found = value[order]
        last = len(found) - 1
        return (found[np.minimum(low, last)] + found[np.minimum(high, last)]) / 2

    return of


def auroc(confidence: str) -> Statistic:
    """Return the AUROC: how often a right prediction is more confident than a wrong one; ties count half."""

    def of(counts: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
        value, right = _values(rows, confidence), rows["right"].to_numpy(dtype=bool)
        if np.isnan(value).any():
            return np.full(len(counts), np.nan)
        order = np.argsort(value, kind="stable")
        starts = np.unique(value[order], return_index=True)[1]
        rights, wrongs = (
            np.add.reduceat(counts[:, order] * chosen[order], starts, axis=1) for chosen in (right, ~right)
        )
        lower = wrongs.cumsum(axis=1) - wrongs / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return (rights * lower).sum(axis=1) / (rights.sum(axis=1) * wrongs.sum(axis=1))

    return of


def _over(first: Statistic, second: Statistic) -> Statistic:
    return lambda counts, rows: first(counts, rows) / second(counts, rows)


def _exceeds(larger: str, smaller: str) -> Statistic:
    share = mean("exceeds")
    return lambda counts, rows: share(
        counts, rows.assign(exceeds=_values(rows, larger) > _values(rows, smaller))
    )


_KNOWN: Mapping[str, OfImages] = {
    "test_accuracy": OfImages("images", mean("right")),
    "test_deepfool_relative_norm": OfImages("images", mean("deepfool")),
    "test_deepfool_median": OfImages("images", median("deepfool")),
    "test_trace_ratio": OfImages("images", _over(mean("within"), mean("between"))),
    **{name: OfImages("images", auroc(name.removeprefix("test_auroc_"))) for name in AUROCS},
    "corruptions_mean": OfImages("images", mean("corrupted")),
    "certified_gradient_exceeds": OfImages("certified", _exceeds("gradient", "shortened")),
    "margins_test_median": OfImages("margins", median("margin")),
    "margins_directions_test_median": OfImages("margins", median("directions_margin")),
    "factor_deepfool": OfImages("factor", mean("deepfool")),
    "factor_deepfool_fooled": OfImages("factor", mean("deepfool", where="fooled")),
    "factor_deepfool_float32": OfImages("factor", mean("deepfool_float32")),
    "factor_deepfool_released": OfImages("factor", mean("deepfool_released")),
    "factor_smallest": OfImages("factor", mean("smallest", where="fooled")),
    "factor_flatness": OfImages("factor", median("gradient", over="steepest")),
}


def of_images(metric: str) -> OfImages | None:
    """Return a metric as a statistic of single images; None if no probe keeps the data it needs."""
    if metric in _KNOWN:
        return _KNOWN[metric]
    probe, _, column = metric.removesuffix("_median").partition("_")
    if metric.endswith("_median") and probe in ("attacks", "certified"):
        return OfImages(probe, median(column))
    return None
