"""Trains the conditional log-variance in batches of nearly equal size, without a small one at the end."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from experiments.studies.bottlenecks import name_of
from experiments.studies.study import Study
from lpc.computing.devices import default_workers
from lpc.runs import execute_all
from lpc.specs import RunSpec, run_key

HERE, EVEN = "as here", "even"
REGULARIZER = "conditional"
WEIGHTS = (0.1, 1.0)
"""Gammas to train again, if a profile has them."""


def even_batch(points: int, batch: int) -> int:
    """Return the batch size that gives as many steps per epoch, in batches of nearly equal size.

    Parameters
    ----------
    points
        Number of images in the train set.
    batch
        Images per batch; the last may be smaller.
    """
    if points < 1 or batch < 1:
        raise ValueError(f"{points} points in batches of {batch}; expected 1 or more of both")
    return math.ceil(points / math.ceil(points / batch))


def evened(runs: Study) -> dict[tuple[float, int], RunSpec]:
    """Return the specs to train, by gamma and trial; they are measured only after the last epoch.

    Parameters
    ----------
    runs
        Runs of a profile, with the conditional log-variance among them.
    """
    found = {}
    for gamma in runs.profile.gammas:
        name = name_of(REGULARIZER, gamma)
        for seed in sorted({spec.seed for spec in runs.specs if spec.architecture == name}):
            if gamma not in WEIGHTS:
                continue
            spec = runs.spec(name, seed)
            size = even_batch(len(runs.images_of(name).train), spec.train.batch_size)
            train = replace(spec.train, batch_size=size, record_every=spec.train.epochs)
            found[gamma, seed] = replace(spec, train=train)
    return found


def trained(runs: Study, *, workers: int | None = None, progress: bool = True) -> pd.DataFrame:
    """Train missing runs and return one row of metrics per run, those with uneven batches first.

    The extra runs are kept in the same store but do not belong to the profile, so its tables do not change. A
    second call trains nothing.

    Parameters
    ----------
    runs
        Runs of a profile.
    workers
        Number of processes; None: one per core.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        Columns of the store, ``weight`` (gamma) and ``batches`` (:data:`HERE` or :data:`EVEN`); the metrics
        of a failed run are missing.
    """
    specs = evened(runs)
    execute_all(list(specs.values()), runs.store, workers=workers or default_workers(), progress=progress)
    rows = [
        {"key": run_key(spec), "weight": gamma, "batches": kind}
        for kind in (HERE, EVEN)
        for (gamma, seed), even in specs.items()
        for spec in [even if kind == EVEN else runs.spec(name_of(REGULARIZER, gamma), seed)]
    ]
    index = pd.DataFrame(rows, columns=["key", "weight", "batches"])
    return index.merge(runs.store.frame(), on="key", how="left")
