"""Statistical power of a few seeds and a few hundred test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import f, ncf, ttest_ind_from_stats


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    r"""Return Holm's adjusted p values: those below alpha are significant at level alpha in their family.

    Parameters
    ----------
    p
        The p values of the family; missing ones stay missing and are not counted.

    Notes
    -----
    Sorted: :math:`\tilde p_{(i)} = \max_{j\le i} \min(1, (m - j + 1) p_{(j)})`.

    References
    ----------
    Holm 1979.
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factor = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factor * values[order]))
    return adjusted


def welch(own: pd.Series, base: pd.Series) -> float:
    """Return the two-sided p of Welch's test; NaN if a side has fewer than two values, or neither varies."""
    if min(len(own), len(base)) < 2 or (np.ptp(own) == 0 and np.ptp(base) == 0):
        return float("nan")
    ours, theirs = ((float(side.mean()), float(side.std()), len(side)) for side in (own, base))
    return float(ttest_ind_from_stats(*ours, *theirs, equal_var=False).pvalue)  # type: ignore[union-attr]


def against(selected: pd.DataFrame, column: str, *, baseline: str = "NoPen") -> pd.DataFrame:
    """Return Welch's test over seeds of every architecture against a baseline.

    Parameters
    ----------
    selected
        Table with ``architecture``, ``seed`` and ``column``.
    column
        Column of the metric.
    baseline
        Architecture to compare the others with.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``difference``, two-sided ``p`` and ``p_holm`` over all rows. p is missing
        if a side has fewer than two values or neither has any spread.
    """
    groups = {name: rows[column].dropna() for name, rows in selected.groupby("architecture", sort=False)}
    base = groups.pop(baseline)
    rows = []
    for name, own in groups.items():
        rows.append({"architecture": name, "difference": own.mean() - base.mean(), "p": welch(own, base)})
    table = pd.DataFrame(rows, columns=["architecture", "difference", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float)))


def detectable_difference(sd: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest difference of two means that a two-sided t test detects with a given probability.

    Parameters
    ----------
    sd
        Standard deviation of either group.
    n
        Number of values in each group, at least 2.
    level, power
        Probability of a false alarm, and of finding the difference.

    Notes
    -----
    The squared t statistic follows the noncentral F distribution with 1 and 2 n - 2 degrees of freedom
    and noncentrality d² / (sd² 2 / n); with equal sds Welch's test has no more power than this.
    """
    if n < 2:
        raise ValueError(f"n is {n}; a t test needs 2 or more values in each group")
    freedom = 2 * n - 2
    critical = f.isf(level, 1, freedom)

    def missing_power(shift: float) -> float:
        return float(ncf.sf(critical, 1, freedom, shift**2)) - power

    return float(brentq(missing_power, 0.0, 12.0)) * sd * (2 / n) ** 0.5  # type: ignore[arg-type]


def hanley_mcneil(auroc: float, right: int, wrong: int) -> float:
    r"""Return the standard error of an AUROC from the numbers of correct and wrong predictions.

    Parameters
    ----------
    auroc
        AUROC between 0 and 1.
    right, wrong
        Numbers of correct and wrong predictions, at least 1 each.

    Notes
    -----
    With A the AUROC, :math:`Q_1 = A/(2-A)`, :math:`Q_2 = 2A^2/(1+A)` (exponentially distributed scores),
    n right and m wrong predictions:
    :math:`\sqrt{[A(1-A) + (n-1)(Q_1-A^2) + (m-1)(Q_2-A^2)] / (n m)}`.

    References
    ----------
    Hanley and McNeil 1982.
    """
    if right < 1 or wrong < 1:
        raise ValueError(f"{right} predictions are right and {wrong} wrong; expected at least one of each")
    both_right, both_wrong = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc)
    variance += (right - 1) * (both_right - auroc**2) + (wrong - 1) * (both_wrong - auroc**2)
    return (variance / (right * wrong)) ** 0.5


def bootstrap_images(
    statistic: Callable[[np.ndarray], float], images: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % percentile interval of a statistic under resampling of the test images.

    Parameters
    ----------
    statistic
        Function that takes indices of images, with repeats, and returns a number. A resample for which it
        raises a ValueError, for example because it has no wrong predictions, is left out.
    images
        Number of images.
    resamples, seed
        Number of resamples, and their seed.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        try:
            found.append(statistic(generator.integers(images, size=images)))
        except ValueError:
            continue
    if not found:
        raise ValueError(f"the statistic could not be computed on any of {resamples} resamples")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
