"""Times two programs that must give the same result against each other in one process."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from experiments.reporting.tables import MISSING, number

NOT_INSTALLED = "not installed"
"""Content of a cell if the other program is not installed."""
NOT_SLOWER = 0.95
"""Target ratio if the aim is to be no slower: timing a program against itself can be off by this much."""

NARROW = 1.1
"""Largest ratio of the upper to the lower quartile for which :data:`ENOUGH` turns are enough."""
FAR = 2.0
"""Factor by which both quartiles must be above or below a target so that their width does not matter."""
ENOUGH = 3
"""Number of turns that are enough if the quartiles are narrow, or far from a target."""


class ResultsDiffer(RuntimeError):
    """Two programs that should agree do not: their times cannot be compared."""


class Comparison(NamedTuple):
    """Result of :func:`compare`.

    Attributes
    ----------
    ours, theirs
        Median seconds of a call; theirs are already divided by ``share``.
    ratio
        Median over pairs of their time divided by ours: above 1 if ours is faster.
    low, high
        Lower and upper quartile of the ratio over pairs.
    pairs
        Number of pairs.
    cold
        Whether the only affordable pair is also each program's first call.
    difference
        Largest absolute difference of the results, relative to the largest absolute entry of theirs, over all
        calls.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    pairs: int
    cold: bool
    difference: float


def steady(seconds: Sequence[Sequence[float]], *, target: float | None = None) -> bool:
    """Return whether turns are enough: :data:`ENOUGH` of them, with narrow quartiles of every call's ratio.

    Parameters
    ----------
    seconds
        Seconds of every call, one row per turn. The ratios are over those of the first call.
    target
        Ratio aimed at; None: none. While it lies between the quartiles, turns are not enough; where both are
        far from it, they need not be narrow.
    """
    if len(seconds) < ENOUGH:
        return False
    taken = np.asarray(seconds)
    low, high = np.quantile(taken[:, 1:] / taken[:, :1], [0.25, 0.75], axis=0)
    narrow = high <= NARROW * low
    if target is not None:
        narrow &= ~((low < target) & (target <= high))
        narrow |= (low >= FAR * target) | (FAR * high <= target)
    return bool(narrow.all())


def interleave(
    calls: Sequence[Callable[[], Any]],
    *,
    repeats: int,
    limit: float = math.inf,
    enough: Callable[[Sequence[Sequence[float]]], bool] = lambda _: False,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[list[float], list[Any]]]:
    """Yield, turn by turn, the seconds and results of every call; every other turn reverses the order.

    Parameters
    ----------
    calls
        Functions to time.
    repeats
        Number of turns, after a first one that warms everything up.
    limit
        Seconds after which no further turn begins.
    enough
        Function that returns whether the seconds of all turns but the first are enough, one row per turn.
    device
        Type of the device; on ``"cuda"``, a call ends when the GPU has finished.
    clock
        Function that returns seconds.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected 1 or more")
    spent, kept = 0.0, []
    for turn in range(repeats + 1):
        seconds, results = [0.0] * len(calls), [None] * len(calls)
        for place in range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls))):
            began = clock()
            results[place] = calls[place]()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[place] = clock() - began
        yield seconds, results
        spent += sum(seconds)
        kept += [seconds] if turn else []
        if spent >= limit or enough(kept):
            return


def largest_difference(ours: Any, theirs: Any) -> float:
    """Return the largest absolute difference, relative to the largest absolute entry of theirs.

    Takes numbers, arrays and tensors. The result is infinite for different shapes, and NaN if an entry is.
    """
    left, right = (
        np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
        for value in (ours, theirs)
    )
    if left.shape != right.shape:
        return math.inf
    apart, size = float(np.abs(left - right).max()), float(np.abs(right).max())
    return apart / size if size > 0 else (math.inf if apart > 0 else apart)


def compare(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    repeats: int,
    tolerance: float,
    share: float = 1.0,
    target: float | None = None,
    limit: float = math.inf,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two programs in turn and check, in every turn, that they give the same result.

    Parameters
    ----------
    ours, theirs
        Functions without arguments that return numbers, arrays or tensors.
    repeats
        Number of pairs after the first, which warms up and counts only if ``limit`` allows no other. There
        are fewer if they are :func:`steady` earlier.
    tolerance
        Largest relative difference allowed (:func:`largest_difference`).
    share
        Share of our work that theirs does, if all of it would take too long.
    target
        Ratio that the comparison must decide.
    limit, device, clock
        Arguments of :func:`interleave`.

    Raises
    ------
    ResultsDiffer
        After the first turn in which the results differ by more.
    """
    pairs, difference = [], 0.0
    enough = partial(steady, target=None if target is None else share * target)
    options = {"repeats": repeats, "limit": limit, "device": device, "clock": clock}
    turns = interleave((ours, theirs), **options, enough=enough)
    for (own, other), results in turns:
        apart = largest_difference(*results)
        if not apart <= tolerance:
            raise ResultsDiffer(f"the results differ by {apart:.1e} of the largest; expected {tolerance:.1e}")
        pairs.append((own, other / share))
        difference = max(difference, apart)
    cold = len(pairs) == 1
    kept = pairs if cold else pairs[1:]
    low, middle, high = np.quantile([other / own for own, other in kept], [0.25, 0.5, 0.75]).tolist()
    own, other = (statistics.median(column) for column in zip(*kept, strict=True))
    return Comparison(own, other, middle, low, high, len(kept), cold, difference)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of a table of times.

    Attributes
    ----------
    what, against
        The task, and the usual alternative.
    ours, theirs
        The two programs; theirs is None if it is not installed.
    tolerance, share
        Arguments of :func:`compare`.
    target
        Smallest ratio to reach; None: there is no target.
    patience
        Factor on the usual time limit, for this case.
    """

    what: str
    against: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None
    tolerance: float
    share: float = 1.0
    target: float | None = None
    patience: float = 1.0


def verdict(found: Comparison, target: float | None) -> str:
    """Return whether a target is reached: yes, no, or close if it lies between the quartiles."""
    if target is None:
        return MISSING
    if found.low < target <= found.high:
        return "close"
    return "yes" if found.ratio >= target else "no"


def table(cases: Iterable[Case], *, repeats: int, limit: float, device: str = "cpu") -> pd.DataFrame:
    """Return one row of text per case: times, ratio, target, whether it is reached, and how results differ.

    Parameters
    ----------
    cases
        Cases, measured one after the other.
    repeats, limit, device
        Arguments of :func:`interleave`.

    Raises
    ------
    ResultsDiffer
        If results differ; the message names the case.
    """
    rows = {}
    for case in cases:
        aim = MISSING if case.target is None else f"≥ {case.target:g}"
        if case.theirs is None:
            rows[case.what, case.against] = (NOT_INSTALLED, *[MISSING] * 4, aim, MISSING, MISSING)
            continue
        options = {"tolerance": case.tolerance, "share": case.share, "target": case.target}
        options |= {"repeats": repeats, "limit": case.patience * limit, "device": device}
        try:
            found = compare(case.ours, case.theirs, **options)
        except ResultsDiffer as error:
            raise ResultsDiffer(f"{case.what}, {case.against}: {error}") from None
        rows[case.what, case.against] = (
            number(1e3 * found.theirs),
            number(1e3 * found.ours),
            number(found.ratio),
            f"{number(found.low)} to {number(found.high)}" if found.pairs > 1 else MISSING,
            f"{found.pairs}{' (cold)' if found.cold else ''}",
            aim,
            verdict(found, case.target),
            f"{number(found.difference, 1)} (≤ {number(case.tolerance, 1)})",
        )
    headings = ["theirs (ms)", "ours (ms)", "ratio", "quartiles", "pairs", "target", "reached", "difference"]
    result = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    result.index = pd.MultiIndex.from_tuples(list(rows), names=["case", "against"])
    return result


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> Mapping[str, str]:
    """Return a description of this machine: processor, cores, threads, load, GPU."""
    processor, listed = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if listed.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in listed.read_text().splitlines() if "model name" in line
        ]
        processor = lines[0] if lines else processor
    return {
        "processor": processor,
        "cores": f"{os.cpu_count()}, of which this process may use {usable_cores()}",
        "threads of torch": str(torch.get_num_threads()),
        "load before": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else MISSING,
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
