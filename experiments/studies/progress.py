"""How far declared runs are: counted by name and status."""

from __future__ import annotations

from collections.abc import Container, Sequence

import pandas as pd

from lpc.specs import RunSpec, run_key

STATES = ["finished", "failed", "training", "interrupted", "missing"]


def counted(specs: Sequence[RunSpec], begun: pd.DataFrame, held: Container[str]) -> pd.DataFrame:
    """Return, a name a row, how many runs are declared, finished, failed, under way, interrupted, missing.

    Parameters
    ----------
    specs
        Declared runs; their order is that of the rows.
    begun
        One row a run that has begun, with ``key`` and ``status``.
    held
        Keys of runs that a program has at this moment; others that have begun are interrupted.
    """
    status = begun.set_index("key")["status"].to_dict()
    rows = []
    for spec in specs:
        key = run_key(spec)
        word = status.get(key, "missing")
        idle = word == "training" and key not in held
        rows.append((spec.architecture, "interrupted" if idle else word))
    table = pd.DataFrame(rows, columns=["architecture", "status"])
    counts = pd.crosstab(table["architecture"], table["status"])
    order = list(dict.fromkeys(table["architecture"]))
    counts = counts.reindex(index=order, columns=STATES, fill_value=0)
    counts.insert(0, "declared", counts.sum(axis=1))
    return counts.rename_axis(columns=None)


def sentence(counts: pd.DataFrame) -> str:
    """Return the totals of :func:`counted` in words."""
    total = counts.sum()
    return (
        f"{total['finished']} of {total['declared']} runs finished, {total['failed']} failed, "
        f"{total['training']} under way, {total['interrupted']} interrupted, {total['missing']} missing"
    )
