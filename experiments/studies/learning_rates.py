"""Selects learning rates on validation images, and declares the runs that retrain them on all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pandas as pd

from lpc.specs import RunSpec

_SELECTED_BY = ["validation_accuracy", "validation_cross_entropy"]


def select(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for every architecture and seed, the finished run with the best validation accuracy.

    Ties go to the lower validation cross-entropy. Failed runs are never selected; an architecture and
    seed without a finished run have no row.

    Raises
    ------
    ValueError
        If a finished run lacks one of the two values: ignoring it could silently select another run.

    References
    ----------
    LPC 2024, Appendix C, which selects the session with the best validation value in the last epoch.
    """
    done = frame[frame["status"] == "finished"]
    if done.empty:
        return done.reset_index(drop=True)
    without = done.reindex(columns=_SELECTED_BY).isna().any(axis=1)
    if without.any():
        first, names = done.loc[without, "key"].iloc[0], " and ".join(_SELECTED_BY)
        raise ValueError(
            f"{without.sum()} finished runs lack {names}, the first in runs/{first}/result.json of the "
            "store; remove their folders to run them again"
        )
    ranked = done.sort_values(_SELECTED_BY, ascending=[False, True], kind="stable")
    best = ranked.drop_duplicates(["architecture", "seed"])
    return best.sort_index().reset_index(drop=True)


@lru_cache(maxsize=10_000)
def retrained(spec: RunSpec) -> RunSpec:
    """Return the run that retrains a selected one on the full train set, validation images included."""
    return replace(spec, data=replace(spec.data, validation=0))


def first_retrained(specs: Sequence[RunSpec]) -> dict[tuple[str, int], RunSpec]:
    """Return, by architecture and seed, the run that would retrain the first of the given runs.

    It stands in for the run whose learning rate is not chosen yet: it trains as long, at another rate.
    """
    again: dict[tuple[str, int], RunSpec] = {}
    for spec in specs:
        again.setdefault((spec.architecture, spec.seed), retrained(spec))
    return again
