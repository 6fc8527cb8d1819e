"""Verdicts from an interval and tolerances: inside, inside the wider one only, outside, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.reporting.intervals import LEVEL, Interval, interval, seeds_to_decide

WORDS = {
    True: ("holds here", "holds in part", "does not hold here"),
    False: ("reproduced", "partly reproduced", "not reproduced"),
}
"""The words for the three verdicts on our own data sets (True) and on the papers' (False)."""
UNDECIDED = "undecided"
"""Verdict if the interval crosses an edge of the tolerance: the present seeds cannot decide."""
MARKS = ("✓", "◐", "✗", "?")
"""Marks of the three verdicts, in the order of :data:`WORDS`, and of :data:`UNDECIDED`."""
OPEN_MARK = "○"
"""The mark of a claim that no runs have judged."""
ALPHA = 1 - LEVEL
NULLS = {"ratio": 1.0, "difference": 0.0, "lead": 0.0}
"""Value of each quantity if there is no effect; other quantities have no such value."""

Range = tuple[float, float]


class Judgement(NamedTuple):
    """Judgement of a claim from its own values.

    Attributes
    ----------
    place
        Place of the mean. 0: inside the tolerance; 1: outside, but the whole interval is inside the wider
        one; 2: outside.
    p
        Two-sided p of the hypothesis that the true value lies on the tolerance's nearest edge. Unless it is
        below 5 % after Holm's correction, the verdict is undecided.
    edges
        Edges that the interval must not contain.
    interval
        Interval of the values; None for a statistical test, whose value is a p.
    values
        One value per seed.
    ratio
        Whether the values are ratios.
    images
        Uncertainty due to the test images, as in :func:`experiments.reporting.intervals.interval`.
    """

    place: int
    p: float
    edges: tuple[float, ...] = ()
    interval: Interval | None = None
    values: tuple[float, ...] = ()
    ratio: bool = False
    images: tuple[float, int] | None = None

    def needed(self) -> str:
        """Return which runs would decide the claim at the present spread, as text; empty if that is unknown.

        This is a number of seeds or, if the variance due to test images prevails, more test images.
        """
        if self.interval is None or not self.edges:
            return ""
        there = len(self.values)
        seeds = seeds_to_decide(self.values, self.edges, ratio=self.ratio, images=self.images)
        if seeds is not None:
            return f"{seeds} seeds" if seeds > there else f"more than {there} seeds"
        alone = seeds_to_decide(self.values, self.edges, ratio=self.ratio)
        return "" if alone is None else "more test images"


def wider(holds: Range, partly: Range | None, null: float | None) -> Range | None:
    """Return the wider tolerance, cut off at "no effect" so that it stays on the tolerance's side.

    If "no effect" lies inside the tolerance, the claim is one of similarity, and the wider tolerance stays as
    it is.

    Parameters
    ----------
    holds, partly
        Tolerance, and the wider one; None: there is none.
    null
        Value of the quantity if there is no effect; None: there is no such value.
    """
    if partly is None or null is None or holds[0] < null < holds[1]:
        return partly
    low, high = (max(partly[0], null), partly[1]) if holds[0] >= null else (partly[0], min(partly[1], null))
    return (low, high) if low < high else None


def judge(
    values: Sequence[float],
    *,
    holds: Range,
    partly: Range | None = None,
    null: float | None = None,
    limits: Range = (-math.inf, math.inf),
    ratio: bool = False,
    images: tuple[float, int] | None = None,
) -> Judgement:
    """Return where the mean over seeds lies, and how certain that is.

    Parameters
    ----------
    values
        One value per seed, at least one in all; infinite for a run that never got there.
    holds, partly, null
        Arguments of :func:`wider`; edges belong to the tolerance, except for "no effect".
    limits
        Limits of possible values: an edge at a limit or beyond it cannot be crossed and is ignored.
    ratio, images
        Arguments of :func:`experiments.reporting.intervals.interval`.
    """
    if any(map(math.isinf, values)):
        outside = all(map(math.isinf, values)) and math.isfinite(holds[1])
        return Judgement(2, 0.0 if outside and len(values) > 1 else 1.0)
    found = interval(values, ratio=ratio, images=images)
    inside = holds[0] <= found.centre <= holds[1]
    near = holds if inside else (holds[1],) if found.centre > holds[1] else (holds[0],)
    edges, p = _told_from(found, near, limits, exact=inside)
    place = 0 if inside else 2
    part = wider(holds, partly, null)
    if not inside and part is not None and part[0] <= found.centre <= part[1] and found.centre != null:
        _, outer = _told_from(found, part, limits, exact=True)
        place = 1 if outer < ALPHA else 2
    return Judgement(place, p, edges, found, tuple(values), ratio, images)


def _told_from(
    found: Interval, edges: Sequence[float], limits: Range, *, exact: bool
) -> tuple[tuple[float, ...], float]:
    """Return the edges that can be crossed, and the largest p of the hypothesis that one is the true value.

    If ``exact``, a mean on an edge without any spread counts as inside.
    """
    real = tuple(e for e in dict.fromkeys(edges) if limits[0] < e < limits[1] and math.isfinite(e))
    if not math.isfinite(found.error):
        return real, 1.0
    if not real or (exact and found.error == 0):
        return real, 0.0
    return real, max(map(found.p, real))


def judge_p(signed: float) -> Judgement:
    """Judge a statistical test by its two-sided p, negative if the difference has the wrong sign."""
    return Judgement(0 if signed > 0 else 2, abs(signed))
