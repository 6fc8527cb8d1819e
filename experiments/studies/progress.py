"""Progress of declared runs: counted by name and status."""

from __future__ import annotations

from collections.abc import Container, Sequence

import pandas as pd

from experiments.studies.study import Study
from lpc.specs import RunSpec, run_key

STATES = ["finished", "failed", "training", "interrupted", "missing"]


def counted(specs: Sequence[RunSpec], begun: pd.DataFrame, held: Container[str]) -> pd.DataFrame:
    """Count the runs that are declared and those in each of :data:`STATES`; return one row per name.

    Parameters
    ----------
    specs
        Specs of declared runs; the rows are in their order.
    begun
        Table with one row per run that has begun, with ``key`` and ``status``.
    held
        Keys of runs that a program is training; other runs that have begun count as interrupted.
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


def of_study(study: Study) -> pd.DataFrame:
    """Count the runs of a study in each state, like :func:`counted`.

    If the study retrains the selected rates, ``to retrain`` and ``retrained`` count these runs: the declared
    and the finished ones.
    """
    counts = counted(study.specs, study.frame, study.store.holders())
    if study.profile.retrain:
        pairs = pd.Series([name for name, _ in {(spec.architecture, spec.seed) for spec in study.specs}])
        counts["to retrain"] = pairs.value_counts().reindex(counts.index)
        counts["retrained"] = (
            study.selected["architecture"].value_counts().reindex(counts.index, fill_value=0)
        )
    return counts


def sentence(counts: pd.DataFrame) -> str:
    """Return the totals of :func:`counted` in words."""
    total = counts.sum()
    again = f", {total['retrained']} of {total['to retrain']} trained again" if "retrained" in total else ""
    return (
        f"{total['finished']} of {total['declared']} runs finished, {total['failed']} failed, "
        f"{total['training']} under way, {total['interrupted']} interrupted, "
        f"{total['missing']} missing{again}"
    )
