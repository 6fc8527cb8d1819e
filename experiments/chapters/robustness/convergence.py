"""Attacks with larger budgets, measured once and recorded; run this module with ``python -m``.

The probe ``attack_steps`` takes minutes for each network, so the book does not make it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.chapters.robustness.attacks import steps
from experiments.paths import MEASURED, ROOT
from experiments.reporting.recorded_tables import record
from experiments.studies import ablation
from experiments.studies.probing import measure_all

NAME = "attack_steps"
"""Name under which the table is recorded."""


def measure(store: Path, *, profile: str = "laptop", results: Path = MEASURED) -> Path:
    """Record :func:`~experiments.chapters.robustness.attacks.steps` of a profile's runs; return the folder.

    Parameters
    ----------
    store
        Store with the profile's runs. Missing probes are taken.
    profile
        Name of a profile that the book trains.
    results
        Folder of recorded tables.

    Raises
    ------
    ValueError
        If the store lacks selected runs of IB and NoPen.
    """
    study = measure_all(ablation.existing(profile, store=store), names=["attack_steps"], usual=False)
    table = steps(study)
    if table.empty:
        raise ValueError(f"{store} has no selected run of {profile} to attack: train the profile first")
    return record(NAME, table.reset_index(level="budget"), folder=store, results=results, profile=profile)


if __name__ == "__main__":
    print(measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs"))
