"""The wiring: a spec becomes a trained, measured, stored run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from tqdm import tqdm

from lpc.computing.devices import default_device
from lpc.computing.stopping import Stopped, stop_on_signal
from lpc.data import ImageSet, load_images
from lpc.heads import Classifier
from lpc.runs import packing
from lpc.runs.measurements import table2_metrics
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore
from lpc.store.holders import Holder
from lpc.training import load_member

POLL = 5.0
"""Seconds between two checks of the runs that others train, if they are few."""
POLL_PER_RUN = 0.1
"""Seconds per run if they are many, because every check asks the file server about each run."""
LONGEST_POLL = 60.0
"""Largest number of seconds between two checks."""


def execute(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Train and measure a single run; the result of a finished run is returned as it is.

    Parameters
    ----------
    spec
        Spec of the run.
    store
        Store that keeps the run; an interrupted run continues from its last checkpoint.
    device
        Device to train on; None: the GPU if there is one.

    Returns
    -------
    dict
        Result of the run: metrics by name.
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
    wait: bool = True,
) -> None:
    """Train and measure all unfinished runs, training runs of the same shape together.

    Several programs may do so at once, on one machine or on many that share the store's folder: each leaves
    alone the runs that another trains, and takes them over if that one dies (:mod:`lpc.store.ownership`).

    Parameters
    ----------
    specs
        Specs of the runs; their order and number decide the packing of those not yet begun.
    store
        Store that keeps the runs. Interrupted cohorts continue with the members they began with.
    device
        Device to train on; None: the GPU if there is one.
    workers
        Number of single-threaded processes that share the runs and the device; 1 trains in this process. A
        script that asks for more needs the usual ``if __name__ == "__main__"``.
    progress
        Whether to show a progress bar.
    wait
        Whether to wait for runs that other programs are training, until all are finished. If False, the call
        returns once nothing else is left, and the store says what is missing.

    Raises
    ------
    Stopped
        If a signal asked to stop; checkpoints are written, and the same call continues from there.
    MemoryError
        If a single run does not fit in the GPU's memory. If only several do not fit together, fewer are
        trained at once, with a warning.

    Warns
    -----
    UserWarning
        If gamma is too large for the budget (:func:`~lpc.equilibrium.budget_warning`), or if another program
        has taken over runs because this one seemed dead.
    """
    device = default_device(device)
    total = packing.run_epochs(packing.plan(specs, store))
    tried = None
    trained = False
    with (
        stop_on_signal() as stop,
        tqdm(total=total, unit=" run-epochs", mininterval=1, disable=not progress or not total) as bar,
    ):
        while missing := store.unfinished(specs):
            holders = store.holders()
            everything = packing.plan(missing, store)
            bar.n = max(0, total - packing.run_epochs(everything))
            planned = packing.plan(missing, store, held=holders) if holders else everything
            if planned and (planned, workers) != tried:
                tried, trained = (planned, workers), True
                pool = min(workers, len(planned))
                run = packing.in_turn if pool == 1 else packing.share
                left = run(planned, store, device, pool, stop, bar)
                if left:
                    workers = packing.lowered(left, pool, store)
            elif wait:
                tried = None
                _pause(
                    len(missing), [holders[key] for key in map(run_key, missing) if key in holders], stop, bar
                )
            else:
                break
    if trained:
        with suppress(OSError):
            store.sweep(specs, patient=False)  # leftovers of killed programs for these runs


def _pause(missing: int, holders: Sequence[Holder], stop: Callable[[], bool], bar: tqdm) -> None:
    """Wait for runs that others train, and say so."""
    by = ", ".join(dict.fromkeys(map(str, holders))) or "others"
    waiting = f"waiting for {missing} runs held by {by}"
    bar.set_description(waiting)
    until = time.monotonic() + min(max(POLL, POLL_PER_RUN * missing), LONGEST_POLL)
    while time.monotonic() < until:
        if stop():
            raise Stopped(f"stopped while {waiting}; call again to continue")
        time.sleep(min(0.1, POLL))


def load_model(spec: RunSpec, store: RunStore, images: ImageSet) -> Classifier:
    """Return a finished run's classifier, in evaluation mode, on the device of the images.

    Parameters
    ----------
    spec
        Spec of a finished run.
    store
        Store that holds its weights.
    images
        Any images of its data set, for their shape, classes and device.
    """
    return load_member(spec, images, store.load_weights(spec))


def measure(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Measure a selected run on the test set (LPC Table 2), once; a measured run is returned as it is.

    Parameters
    ----------
    spec
        Spec of a finished run whose learning rate was selected without the test set.
    store
        Store that holds its weights and receives its test metrics.
    device
        Device to measure on; None: the GPU if there is one.
    """
    if store.measured(spec):
        return store.test(spec)
    splits = load_images(spec.data, device=default_device(device))
    model = load_member(spec, splits.test, store.load_weights(spec))
    store.save_test(spec, table2_metrics(model, splits).as_dict())
    return store.test(spec)


def measure_all(
    specs: Sequence[RunSpec], store: RunStore, *, device: torch.device | None = None, progress: bool = True
) -> None:
    """Measure every selected run that has no test metrics yet.

    Parameters
    ----------
    specs
        Specs of finished runs whose learning rates were selected without the test set.
    store
        Store that holds their weights and receives their test metrics.
    device
        Device to measure on; None: the GPU if there is one.
    progress
        Whether to show a progress bar.
    """
    todo = [spec for spec in specs if not store.measured(spec)]
    for spec in tqdm(todo, desc="measuring on test", unit=" runs", disable=not progress or not todo):
        measure(spec, store, device=device)
