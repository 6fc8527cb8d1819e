"""How far declared runs are: counted by name and status."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lpc.specs import RunSpec, run_key


def counted(specs: Sequence[RunSpec], begun: pd.DataFrame) -> pd.DataFrame:
    """Return, a name a row, how many runs are declared, finished, failed, under way, missing.

    Parameters
    ----------
    specs
        Declared runs; their order is that of the rows.
    begun
        One row a run that has begun, with ``key`` and ``status``.
    """
    status = begun.set_index("key")["status"]
    rows = [(spec.architecture, status.get(run_key(spec), "missing")) for spec in specs]
    table = pd.DataFrame(rows, columns=["architecture", "status"])
    counts = pd.crosstab(table["architecture"], table["status"])
    order = list(dict.fromkeys(table["architecture"]))
    counts = counts.reindex(index=order, columns=["finished", "failed", "training", "missing"], fill_value=0)
    counts.insert(0, "declared", counts.sum(axis=1))
    return counts.rename_axis(columns=None)


def sentence(counts: pd.DataFrame) -> str:
    """Return the totals of :func:`counted` in words."""
    total = counts.sum()
    return (
        f"{total['finished']} of {total['declared']} runs finished, {total['failed']} failed, "
        f"{total['training']} under way, {total['missing']} missing"
    )
