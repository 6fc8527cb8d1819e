"""How far a claim about test images would move with other images, which all seeds and networks share."""

from __future__ import annotations

import numpy as np
import pandas as pd

_PREFIX, _SUFFIX = "attacks_", "_median"


def column_of(metric: str) -> str | None:
    """Return the column of the attacks' table, one value per image, whose median a metric is; else None."""
    if metric.startswith(_PREFIX) and metric.endswith(_SUFFIX):
        return metric.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return None


def of_log_ratio(
    table: pd.DataFrame,
    *,
    own: str,
    base: str,
    metric: str,
    per: str | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, int] | None:
    """Return the variance of the mean log ratio over seeds under resampling of the images, and their number.

    The images are drawn once for all seeds and both networks: what is compared is paired by image.

    Parameters
    ----------
    table
        One row per network and image: ``architecture``, ``seed``, ``image`` and the attacks' columns.
    own, base
        Architectures: the ratio is of the first over the second, of medians over images.
    metric, per
        The ledger's metric, and the one that it is divided by.
    resamples, seed
        How many to draw, and from which seed.

    Returns
    -------
    tuple or None
        None where the metric is no median over attacked images, or the table lacks a network.
    """
    names = [column_of(name) for name in (metric, per) if name is not None]
    if None in names or any(name not in table for name in names):
        return None
    sides = []
    for architecture, sign in ((own, 1.0), (base, -1.0)):
        for name, power in zip(names, (1.0, -1.0), strict=False):
            rows = table[table["architecture"] == architecture]
            values = rows.pivot_table(index="seed", columns="image", values=name, dropna=False)
            if values.empty:
                return None
            sides.append((sign * power, values))
    images = sorted(set.intersection(*(set(values.columns) for _, values in sides)))
    if len(images) < 2:
        return None
    generator = np.random.default_rng(seed)
    arrays = [(sign, values[images].to_numpy(dtype=float)) for sign, values in sides]
    found = []
    for _ in range(resamples):
        drawn = generator.integers(len(images), size=len(images))
        logs = [sign * np.log(np.nanmedian(array[:, drawn], axis=1)).mean() for sign, array in arrays]
        found.append(float(sum(logs)))
    return float(np.var(found, ddof=1)), len(images)
