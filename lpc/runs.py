"""The wiring: a spec becomes a trained, measured, stored run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from lpc import packing
from lpc.data import ImageSet, load_images
from lpc.heads import Classifier
from lpc.machine import default_device
from lpc.measurements import table2_metrics
from lpc.specs import RunSpec
from lpc.stopping import stop_on_signal
from lpc.store import RunStore
from lpc.training import load_member


def execute(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Train and measure one run alone; a finished run is returned as it is.

    Parameters
    ----------
    spec
        The run.
    store
        Where it is kept; a run that was interrupted goes on from its last checkpoint.
    device
        Where to train; the GPU by default, where there is one.

    Returns
    -------
    dict
        The run's result.
    """
    execute_all([spec], store, device=device, progress=False)
    return store.result(spec)


def execute_all(
    specs: Sequence[RunSpec],
    store: RunStore,
    *,
    device: torch.device | None = None,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Train and measure every run that is not finished, those of one shape together.

    Parameters
    ----------
    specs
        Runs; the order and the number decide the packing of those not yet begun.
    store
        Where they are kept. Cohorts that were interrupted go on with the members they began with.
    device
        Where to train; the GPU by default, where there is one.
    workers
        Processes, of one thread each, that share the runs and the device; 1 trains in this process. A
        script that asks for more needs the usual ``if __name__ == "__main__"``.
    progress
        Whether to show a progress bar.

    Raises
    ------
    Stopped
        A signal asked to stop; checkpoints are written, and the same call goes on from there.
    MemoryError
        A run that does not fit in the GPU's memory alone. Where several do not fit together, fewer are
        trained at once, with a warning.

    Warns
    -----
    UserWarning
        A gamma that the budget cannot carry (:func:`lpc.equilibrium.budget_warning`).
    """
    device = device or default_device()
    planned = packing.plan(specs, store)
    total = packing.run_epochs(planned)
    with (
        stop_on_signal() as stop,
        tqdm(total=total, unit=" run-epochs", mininterval=1, disable=not progress or not planned) as bar,
    ):
        while planned:
            pool = min(workers, len(planned))
            run = packing.in_turn if pool == 1 else packing.share
            planned, workers = packing.lowered(run(planned, store, device, pool, stop, bar), pool, store)
            bar.n = total - packing.run_epochs(planned)  # those that did not fit begin anew


def load_model(spec: RunSpec, store: RunStore, images: ImageSet) -> Classifier:
    """Return a finished run's classifier, in evaluation mode, on the device of the images."""
    return load_member(spec, images, store.load_weights(spec))


def measure(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Measure a selected run on the test set (LPC Table 2), once; a measured run is returned as it is.

    Parameters
    ----------
    spec
        A finished run whose learning rate was selected without the test set.
    store
        Where its weights are and its test metrics go.
    device
        Where to measure; the GPU by default, where there is one.
    """
    if store.measured(spec):
        return store.test(spec)
    splits = load_images(spec.data, device=device or default_device())
    model = load_member(spec, splits.test, store.load_weights(spec))
    store.save_test(spec, table2_metrics(model, splits).as_dict())
    return store.test(spec)


def measure_all(
    specs: Sequence[RunSpec], store: RunStore, *, device: torch.device | None = None, progress: bool = True
) -> None:
    """Measure every selected run that has no test metrics yet."""
    todo = [spec for spec in specs if not store.measured(spec)]
    for spec in tqdm(todo, desc="measuring on test", unit=" runs", disable=not progress or not todo):
        measure(spec, store, device=device)
