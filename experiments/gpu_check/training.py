"""Trains a profile's runs in pieces, as time allows; each piece continues from the last one's checkpoints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

from experiments.gpu_check.amounts import Amount, Rows
from experiments.studies.profiles import profile, specs
from lpc.computing.devices import default_device
from lpc.computing.stopping import Stopped
from lpc.datasets import absent_files
from lpc.runs import execute_all
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore

MARGIN = 30.0
"""Seconds before the end at which training is asked to stop: time for an epoch, metrics and a checkpoint."""


def piece(amount: Amount, seconds: float) -> Rows:
    """Train one seed of a profile until the time is nearly up, and yield the progress.

    The runs are those of ``train --profile NAME --seeds 1``, in the same store: that command continues them.

    Raises
    ------
    ValueError
        If the data are missing.
    """
    found = profile(amount.trained)
    if absent := absent_files(found.data.name):
        raise ValueError(
            f"data set {found.data.name!r} is incomplete: {absent[0].name} is missing from the data folder "
            f"(LPC_DATA): python -m experiments fetch --profile {found.name}"
        )
    declared, store = specs(found, seeds=1), RunStore(amount.store)
    before = _epochs(declared, store)
    timer = threading.Timer(max(1.0, seconds - MARGIN), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    began = time.perf_counter()
    try:
        execute_all(declared, store, device=default_device("cuda"), progress=False, wait=False)
    except Stopped:
        pass
    finally:
        timer.cancel()
    spent, done = time.perf_counter() - began, _epochs(declared, store) - before
    finished = sum(store.finished(spec) for spec in declared)
    yield (
        f"{found.name}, seed 0",
        {
            "runs finished": finished,
            "of": len(declared),
            "epochs in this piece": done,
            "seconds": spent,
            "seconds per epoch, including measurements": spent / done if done else None,
            "finished": finished == len(declared),
        },
    )


def _epochs(declared: Sequence[RunSpec], store: RunStore) -> int:
    """Return how many epochs some runs have trained, up to their last checkpoints."""
    done = store.epochs_done()
    return sum(spec.train.epochs if store.finished(spec) else done.get(run_key(spec), 0) for spec in declared)
