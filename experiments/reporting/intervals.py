"""Confidence intervals and tests from few seeds, by Student's t; ratios are judged by their logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from experiments.reporting.tables import number

LEVEL = 0.95
"""Level of every interval of the ledger."""
MOST_SEEDS = 1000
"""Largest number of seeds that :func:`seeds_to_decide` considers."""


class Interval(NamedTuple):
    """A mean over seeds with its interval.

    Attributes
    ----------
    centre
        The mean; for ratios, the geometric mean.
    low, high
        Ends of the 95 % interval; infinite with one seed.
    error, freedom
        Standard error on the judged scale, and its degrees of freedom.
    log
        Whether that scale is the logarithm.
    alone
        Standard error and degrees of freedom of the seeds alone, because images never make a mean more
        certain.
    """

    centre: float
    low: float
    high: float
    error: float
    freedom: float
    log: bool
    alone: tuple[float, float] = (0.0, 1.0)

    def __str__(self) -> str:
        if not math.isfinite(self.error):
            return f"{number(self.centre)} (one seed)"
        return f"{number(self.centre)} [{number(self.low)}, {number(self.high)}]"

    def p(self, edge: float) -> float:
        """Return the two-sided p of the t test of the hypothesis that the true value is the edge.

        It is 1 if no spread is known. If the spread is zero, it is 1 for a centre on the edge and 0 for any
        other.
        """
        if not math.isfinite(self.error):
            return 1.0
        if self.log and edge <= 0:
            return 0.0
        distance = abs(math.log(self.centre / edge) if self.log else self.centre - edge)
        if self.error == 0:
            return float(distance == 0)
        both = [(self.error, self.freedom), *([self.alone] if self.alone[0] else [])]
        return max(float(2 * student.sf(distance / error, freedom)) for error, freedom in both)


def interval(
    values: Sequence[float], *, ratio: bool = False, images: tuple[float, int] | None = None
) -> Interval:
    r"""Return the mean of one value per seed, with its 95 % interval.

    Parameters
    ----------
    values
        Finite numbers, at least one.
    ratio
        Whether the values are ratios: the interval is then the exponential of their logarithms' interval.
        Ratios that are not all positive have no logarithm and are judged as plain numbers.
    images
        Variance of the mean, on the judged scale, due to the test images that all seeds share, and the
        number of images. None: unknown, and left out.

    Notes
    -----
    The variance is :math:`s^2/n` plus that of the images. The degrees of freedom are Welch and
    Satterthwaite's: :math:`(a + b)^2 / (a^2/(n-1) + b^2/(N-1))`. For two seeds, with their one degree of
    freedom, the interval can come out narrower than without images: then that of the seeds alone is used.
    """
    found = np.asarray(values, dtype=float)
    if not len(found) or not np.isfinite(found).all():
        raise ValueError(f"values are {list(values)}; expected one or more finite numbers")
    log = ratio and bool((found > 0).all())
    judged = np.log(found) if log else found
    count, mean = len(judged), float(judged.mean())
    rounding = 1e-12 * float(np.abs(judged).max())  # equal values differ by no more
    back: Callable[[float], float] = _exp if log else float
    if count < 2:
        return Interval(back(mean), back(-math.inf), math.inf, math.inf, 0.0, log)
    spread = float(judged.std(ddof=1))
    seeds = (spread if spread > rounding else 0.0) ** 2 / count
    error, freedom = _both(seeds, count, images)
    alone = (math.sqrt(seeds), float(count - 1))
    half = max(_half(error, freedom), _half(*alone))
    return Interval(back(mean), back(mean - half), back(mean + half), error, freedom, log, alone)


def _both(seeds: float, count: int, images: tuple[float, int] | None) -> tuple[float, float]:
    """Return the standard error due to seeds and images together, and its degrees of freedom."""
    shared, total = images or (0.0, 2)
    if seeds + shared == 0:
        return 0.0, float(count - 1)
    freedom = (seeds + shared) ** 2 / (seeds**2 / (count - 1) + shared**2 / (total - 1))
    return math.sqrt(seeds + shared), freedom


def _half(error: float, freedom: float) -> float:
    """Return half the width of the interval of a mean with the given standard error."""
    return float(student.isf((1 - LEVEL) / 2, freedom)) * error


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def seeds_to_decide(
    values: Sequence[float],
    edges: Sequence[float],
    *,
    ratio: bool = False,
    images: tuple[float, int] | None = None,
) -> int | None:
    """Return the number of seeds that would separate the mean from every edge at the present mean and spread.

    Parameters
    ----------
    values
        One value per seed, at least two.
    edges
        Edges that the interval must not contain.
    ratio, images
        Arguments of :func:`interval`; more seeds do not reduce the variance due to images.

    Returns
    -------
    int or None
        Number of seeds; None: no number up to :data:`MOST_SEEDS` suffices, or no spread is known.
    """
    if len(values) < 2:
        return None
    found = interval(values, ratio=ratio)
    judged = [
        math.log(e / found.centre) if found.log else e - found.centre for e in edges if e > 0 or not found.log
    ]
    distance = min(map(abs, judged), default=math.inf)
    spread = found.alone[0] * math.sqrt(len(values))
    if distance == 0:
        return None
    enough = _halves(spread, np.arange(2, MOST_SEEDS + 1), images) < distance
    return 2 + int(enough.argmax()) if enough.any() else None


def _halves(spread: float, counts: np.ndarray, images: tuple[float, int] | None) -> np.ndarray:
    """Return half the width of the interval for each number of seeds, given the same spread."""
    alone = spread / np.sqrt(counts)
    both = [_both(float(one) ** 2, int(count), images) for one, count in zip(alone, counts, strict=True)]
    error, freedom = np.transpose(both)
    inside = (1 - LEVEL) / 2
    return np.maximum(student.isf(inside, freedom) * error, student.isf(inside, counts - 1) * alone)
