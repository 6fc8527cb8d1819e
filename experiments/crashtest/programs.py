"""Programs of a crash test: forks of a process that has imported everything, which train a few tiny runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch

from lpc.datasets import load_raw
from lpc.runs import execute_all, execution, measure_all
from lpc.specs import DataSpec, RunSpec, TrainSpec, run_key, variant_spec
from lpc.store import Probe, RunStore, holders

EPOCHS = 3
"""Number of epochs of every run, with a checkpoint after each."""
POLL = 0.02
"""Seconds between two checks of the runs that other programs train."""
LIMIT = 120.0
"""Seconds after which a program that has not ended counts as stuck."""
PROBE = "crash"
_living: set[int] = set()
"""Forked processes that nobody has waited for yet."""


def runs() -> list[RunSpec]:
    """Return the runs that are trained: two in one cohort, and one alone."""
    return [
        variant_spec(
            architecture,
            data=DataSpec(name="digits", validation=40, train_limit=60),
            backbone="mlp",
            backbone_width=8,
            train=TrainSpec(
                epochs=EPOCHS, batch_size=20, learning_rate=rate, record_every=1, metrics="geometry"
            ),
            seed=0,
        )
        for architecture, rate in (("IB", 1e-2), ("IB", 2e-2), ("NoPen", 1e-2))
    ]


def train(root: Path) -> None:
    """Train, measure, probe and list a store, as ``train``, ``stress`` and ``status`` do."""
    store, specs = RunStore(root), runs()
    execute_all(specs, store, device=torch.device("cpu"), progress=False)
    measure_all(specs[:1], store, device=torch.device("cpu"), progress=False)
    if store.probe(run_key(specs[0]), PROBE, version=1) is None:
        table = pd.DataFrame({"image": [0, 1], "distance": [0.25, 0.5]})
        store.save_probe(specs[0], PROBE, Probe({"mean": 0.375}, table), version=1)
    store.frame()


def read(root: Path) -> None:
    """Read everything in a store, as ``status`` and a chapter do; a damaged file is an error."""
    store = RunStore(root)
    store.frame()
    store.history()
    store.epochs_done()
    store.holders()
    for cohort in store.cohorts():
        store.load_state(cohort, "cpu")
    for spec in runs():
        store.attempts(spec)
        if store.finished(spec):
            store.result(spec)
            store.provenance(spec)
            store.load_weights(spec)
            store.probe_table(run_key(spec), PROBE, version=1)
        if store.measured(spec):
            store.test(spec)


def warm(names: list[str]) -> None:
    """Import modules and read the images, so that forked programs need not."""
    for name in names:
        with suppress(Exception):  # importing one of them creates others, which cannot be imported themselves
            importlib.import_module(name)
    load_raw(runs()[0].data.name)


def fork(work: Callable[[], None], said: Path, *, lease: float | None = None) -> int:
    """Do some work in a forked process and return its id; after an error, its exit status is 1.

    Parameters
    ----------
    work
        Function that does the work.
    said
        File to which the output is appended, ending with the type and message of an error.
    lease
        Seconds without a sign of life after which it takes over others' runs, and six times the interval of
        its own signs of life; None: the usual one.
    """
    process = os.fork()
    if process:
        _living.add(process)
        return process
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # its parent stops it
            signal.signal(number, signal.SIG_IGN)
        stream = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        execution.POLL = POLL
        if lease is not None:
            holders.LEASE, holders.HEARTBEAT = lease, lease / 6
        work()
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def modules_of(work: Callable[[], None], said: Path) -> list[str]:
    """Do some work in a forked process and return the modules that it has imported at the end."""

    def listed() -> None:
        work()
        names.write_text("\n".join(sys.modules))

    names = said.with_suffix(".modules")
    if ended(fork(listed, said)) != 0:
        raise RuntimeError(f"an undisturbed program fails: {said.read_text().strip()}")
    return names.read_text().splitlines()


def ended(process: int, *, stopped: bool = False) -> int | None:
    """Wait for a process and return its exit status, negative for a signal; None if it is stuck.

    Parameters
    ----------
    process
        Id of a child process. If it is stuck, it is killed.
    stopped
        Whether to return for a stopped process, too, with minus the signal that stopped it.
    """
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG | (os.WUNTRACED if stopped else 0))
        if found:
            if not os.WIFSTOPPED(status):
                _living.discard(process)
            return -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    kill(process)
    return None


def kill(process: int) -> None:
    """Kill a child of this process, if it has not ended."""
    _living.discard(process)
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def end_all() -> None:
    """Kill all forked processes that a stopped crash test has not waited for."""
    for process in [*_living]:
        kill(process)
