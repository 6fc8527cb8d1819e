"""How much a claim's value would vary with other test images, which all seeds and networks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.reporting.declarations import Claim
from experiments.reporting.image_statistics import AUROCS, SHARES, about_images, of_images
from experiments.reporting.significance import hanley_mcneil
from experiments.studies.image_shapes import shape_of_data
from experiments.studies.profiles import PROFILES

DRAWS = 500
"""Number of resamples of the test images."""
HOW = PAIRED, BOUND, LEFT_OUT = "drawn again", "bounded", "left out"
"""How test images enter a verdict: resampled, the same for all networks; by a bound; not at all."""


class Images(NamedTuple):
    """Contribution of the test images to a claim's uncertainty.

    Attributes
    ----------
    how
        Treatment: :data:`PAIRED`, :data:`BOUND` or :data:`LEFT_OUT`; empty: the claim does not depend on test
        images.
    variance
        Variance of the mean over seeds, and the number of images; None: unknown.
    """

    how: str
    variance: tuple[float, int] | None = None


Tables = dict[tuple[str, str], pd.DataFrame | None]
"""Tables that have been read, by profile and probe."""


def of_source(claim: Claim, runs: pd.DataFrame, source: Any, tables: Tables) -> Images:
    """Return the contribution of the test images to a claim that is judged by the runs of a study.

    Parameters
    ----------
    claim, runs
        Arguments of :func:`of_claim`.
    source
        Source of the runs, such as a study or recorded runs. Without a ``probe_table`` it has no data on
        single images.
    tables
        Tables that have been read already; new ones are added.
    """
    kept = {}
    for metric in (claim.metric, claim.per or claim.metric):
        kind = of_images(metric)
        if kind is None or not hasattr(source, "probe_table"):
            continue
        if (claim.profile, kind.probe) not in tables:
            tables[claim.profile, kind.probe] = source.probe_table(kind.probe)
        table = tables[claim.profile, kind.probe]
        if table is not None:
            kept[kind.probe] = table[table["key"].isin(runs["key"])] if "key" in runs else table
    declared = PROFILES.get(claim.profile)
    total = None if declared is None else shape_of_data(declared.data).test
    return of_claim(claim, runs, kept, total=total)


def of_claim(
    claim: Claim,
    runs: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    *,
    total: int | None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Images:
    """Return how much a claim's mean over seeds would vary with other test images.

    If a probe kept a row for every image of every network, the images are resampled, the same for all
    networks, so that comparisons are paired by image. Otherwise shares and AUROCs have a bound.

    Parameters
    ----------
    claim
        Claim to judge; a statistical test has no mean, hence no variation.
    runs
        Selected runs of its profile, with its metric.
    tables
        Tables by probe: one row per network and image, with ``architecture`` and ``seed``, and ``image`` if
        not all test images are there in order.
    total
        Number of test images for the bounds; None: unknown.
    draws, seed
        Number of draws, and their seed.

    Notes
    -----
    The variance of a share p of N images is at most p (1 - p) / N, and that of its mean over networks is no
    larger. A difference is bounded by the sum of both variances, because an image that one network gets
    right is no harder for the other. Hanley and McNeil's formula gives the variance of an AUROC.
    """
    metrics = [name for name in (claim.metric, claim.per) if name is not None]
    if not any(map(about_images, metrics)):
        return Images("")
    if claim.quantity not in ("value", "ratio", "difference", "lead"):
        return Images(LEFT_OUT)
    found = _resampled(claim, metrics, runs, tables, draws=draws, seed=seed)
    if found is not None:
        return Images(PAIRED, found)
    found = _bounded(claim, runs, total)
    return Images(LEFT_OUT) if found is None else Images(BOUND, found)


def _resampled(
    claim: Claim,
    metrics: list[str],
    runs: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    *,
    draws: int,
    seed: int,
) -> tuple[float, int] | None:
    kinds = [of_images(name) for name in metrics]
    if any(kind is None or kind.probe not in tables for kind in kinds):
        return None
    names = [*claim.of[:1], *claim.over]
    seeds = sorted(set(runs.loc[runs["architecture"] == claim.of[0], "seed"]))
    rows: dict[tuple[int, str, int], pd.DataFrame] = {}
    for place, kind in enumerate(kinds):
        groups = dict(iter(tables[kind.probe].groupby(["architecture", "seed"])))  # type: ignore[union-attr]
        for name in names:
            for one in seeds:
                if (name, one) not in groups:
                    return None
                own = groups[name, one]
                index = own["image"] if "image" in own else np.arange(len(own))
                rows[place, name, one] = own.set_index(np.asarray(index))
    shared = sorted(set.intersection(*(set(own.index) for own in rows.values())))
    if len(shared) < 2:
        return None
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(shared), np.full(len(shared), 1 / len(shared)), size=draws)

    def value(name: str, one: int) -> np.ndarray:
        parts = [
            kind.statistic(counts, rows[i, name, one].loc[shared]) for i, kind in enumerate(kinds) if kind
        ]
        return parts[0] if len(parts) == 1 else parts[0] / parts[1]

    with np.errstate(divide="ignore", invalid="ignore"):
        by_seed = [_quantity(claim, {name: value(name, one) for name in names}) for one in seeds]
        moved = np.mean([np.log(one) if claim.ratio else one for one in by_seed], axis=0)
    moved = moved[np.isfinite(moved)]
    return (float(moved.var(ddof=1)), len(shared)) if len(moved) > draws / 2 else None


def _quantity(claim: Claim, values: Mapping[str, np.ndarray]) -> np.ndarray:
    own, others = values[claim.of[0]], [values[name] for name in claim.over]
    if claim.quantity == "value":
        return own
    if claim.quantity == "ratio":
        return own / others[0]
    if claim.quantity == "difference":
        return own - others[0]
    return np.min(others, axis=0) - own if claim.sign == "smaller" else own - np.max(others, axis=0)


def _bounded(claim: Claim, runs: pd.DataFrame, total: int | None) -> tuple[float, int] | None:
    """Return the bound on the variance of a share or an AUROC; a lead is over the best of the others."""
    if total is None or claim.per is not None or claim.quantity == "ratio":
        return None
    if claim.metric not in (*SHARES, *AUROCS) or claim.metric not in runs:
        return None
    value = _means(runs, claim.metric)
    others = {name: value[name] for name in claim.over if name in value}
    variance = 0.0
    for name in [claim.of[0], *([max(others, key=others.__getitem__)] if others else [])]:
        if claim.metric in AUROCS:
            right = round(_means(runs, "test_accuracy")[name] * total)
            counts = right, total - right
            if min(counts) < 1:
                return None
            variance += hanley_mcneil(value[name], *counts) ** 2
        else:
            variance += value[name] * (1 - value[name]) / total
    return variance, total


def _means(runs: pd.DataFrame, column: str) -> dict[str, float]:
    """Return a column's mean over seeds by architecture; architectures without values are left out."""
    values = pd.to_numeric(runs[column], errors="coerce").groupby(runs["architecture"]).mean().dropna()
    return {str(name): float(value) for name, value in values.items()}
