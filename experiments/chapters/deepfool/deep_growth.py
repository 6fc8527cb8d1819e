"""The gamma sweep on a small ResNet-18, the paper's kind of backbone, where classes collapse further."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from experiments.probes import factor
from experiments.studies.schedules import scaled_schedule
from experiments.studies.study import Study
from lpc.computing.devices import default_workers
from lpc.runs import execute_all, load_model
from lpc.specs import GAMMAS, RunSpec, run_key, variant_spec
from lpc.store.probes import Probe

ROWS = ("gamma0", "gamma1")
"""Architectures of :data:`lpc.architectures.GAMMAS`; even this short training carries well over gamma 1."""
WIDTH = 8
"""Number of channels in the first stage: an eighth of ResNet-18's."""
RATE = 8e-3
"""Learning rate."""
ATTACKS = ("fab_targeted",)
"""Attacks besides DeepFool: to save time, only that of the sweep's which finds the shortest perturbations."""
IMAGES = 100
"""Largest number of attacked images: half as many as in the sweep, whose networks are far smaller."""
VERSION = 2
"""Version of the measurement, incremented by any edit that changes it."""


def declared(study: Study, *, seeds: int = 1) -> list[RunSpec]:
    """Return the specs of the runs, which train for half the sweep's epochs.

    Parameters
    ----------
    study
        Study of a gamma sweep, whose data and first seeds are used.
    seeds
        Number of seeds.
    """
    epochs = max(1, study.profile.train.epochs // 2)
    top = max(GAMMAS[row].gamma_maximum or 0.0 for row in ROWS)
    train = scaled_schedule(epochs=epochs, gamma_maximum=top, batch_size=study.profile.train.batch_size)
    return [
        variant_spec(
            row,
            data=study.profile.data,
            backbone="resnet18",
            backbone_width=WIDTH,
            train=replace(train, learning_rate=RATE, record_every=epochs),
            seed=seed,
            variants=GAMMAS,
        )
        for seed in study.profile.seeds[:seeds]
        for row in ROWS
    ]


def trained(
    study: Study, *, seeds: int = 1, workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Train and attack missing runs, and return one row per run.

    The runs are kept in the sweep's store but do not belong to the sweep.

    Parameters
    ----------
    study, seeds
        Arguments of :func:`declared`.
    workers
        Number of processes; None: one per core, or one if there is a GPU.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, the run's result, and ``factor_`` columns like the sweep's.
    """
    specs, store = declared(study, seeds=seeds), study.store
    execute_all(specs, store, workers=workers or default_workers(), progress=progress)
    images = study.images_at_hand
    for spec in specs:
        if store.probe(run_key(spec), "factor", version=VERSION) is None:
            model = load_model(spec, store, images.test)
            amounts = factor.amounts(images)
            amounts["count"] = min(IMAGES, amounts["count"])
            table = factor.measured(model, images.test, names=ATTACKS, **amounts)
            store.save_probe(spec, "factor", Probe(factor.summary(table), table), version=VERSION)
    rows = store.frame().set_index("key").loc[list(map(run_key, specs))].reset_index()
    return rows.merge(store.probes(list(rows["key"]), {"factor": VERSION}), on="key", how="left")
