"""The store at scale: many programs claim its runs on a slow file server, simulated without training.

All files that the programs read and write are real, and so is the library's code, from planning to the stored
result. Two things are simulated: the server's time (:mod:`experiments.benchmarks.virtual_server`), and the
training, which takes a fixed time and yields one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import torch

from experiments.benchmarks.store_scale import LOOK
from experiments.benchmarks.virtual_server import Server
from experiments.studies.profiles import profile, specs
from lpc.data import load_images
from lpc.runs import execute_all, packing, training_loop
from lpc.runs.training_loop import Plan
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import Lease, RunStore, run_store

SERVICE = 0.1e-3
"""Seconds for which a request keeps one of the server's slots busy."""
PLACES = 1
"""Number of the server's slots: with :data:`SERVICE`, it answers 10,000 requests per second."""
TRAINING = 600.0
"""Assumed seconds to train a run."""
FIRST_SEED = 10_000_000
"""First seed of the runs that are not finished."""


class Claims(NamedTuple):
    """What happened while programs trained all unfinished runs of a store.

    Attributes
    ----------
    slower
        Factor by which the server was slower than usual.
    finished, missing
        Numbers of finished and of unfinished runs at the beginning.
    programs
        Number of programs.
    begun
        Virtual seconds until as many runs had begun as there are programs.
    seconds
        Virtual seconds until the last program ended.
    refused
        Number of attempts to claim a run that another program had.
    requests
        Numbers of requests to the file server, by kind.
    waited
        Virtual seconds that requests waited for a slot of the server, summed over programs.
    twice
        Number of runs that were trained more than once.
    """

    slower: float
    finished: int
    missing: int
    programs: int
    begun: float
    seconds: float
    refused: int
    requests: Counter[str]
    waited: float
    twice: int

    @property
    def ideal(self) -> float:
        """Seconds that the training alone would take this number of programs."""
        return -(-self.missing // self.programs) * TRAINING

    @property
    def row(self) -> dict[str, str]:
        """The figures as a row of a table."""
        total = self.requests.total()
        return {
            "programs": f"{self.programs}",
            "requests that the server answers (1/s)": f"{PLACES / SERVICE / self.slower:,.0f}",
            "runs finished before": f"{self.finished:,}",
            "trained": f"{self.missing:,}",
            "all at work after (s)": f"{self.begun:.1f}",
            "runs an hour": f"{3600 * self.missing / self.seconds:,.0f}",
            "of the ideal (%)": f"{100 * self.ideal / self.seconds:.1f}",
            "refused claims per run": f"{self.refused / self.missing:.2f}",
            "requests per run": f"{total / self.missing:,.0f}",
            "requests a second": f"{total / self.seconds:,.0f}",
            "waiting for the server (s per run)": f"{self.waited / self.missing:.2f}",
            "trained twice": f"{self.twice}",
        }


def unfinished(count: int) -> list[RunSpec]:
    """Return runs of ``paper-cifar10`` with seeds of their own; each trains alone."""
    declared = specs(profile("paper-cifar10"))
    return [replace(declared[place % len(declared)], seed=FIRST_SEED + place) for place in range(count)]


def claim(
    store: Path, wanted: Sequence[RunSpec], programs: int, *, finished: int = 0, slower: float = 1.0
) -> Claims:
    """Let programs train a store's runs together, in virtual time, and return what happened.

    Parameters
    ----------
    store
        Folder of the store, in which none of these runs has begun.
    wanted
        Specs of the runs.
    programs
        Number of programs; each is asked to train all the runs.
    finished
        Number of finished runs in the store, for the record.
    slower
        Factor by which the server is slower than :data:`LOOK` and :data:`SERVICE`.
    """
    if programs < 1 or not wanted:
        raise ValueError(f"{programs} programs and {len(wanted)} runs; expected 1 or more of each")
    server = Server(store, network=slower * LOOK, service=slower * SERVICE, places=PLACES)
    trained: Counter[str] = Counter()
    begun: list[float] = []
    refused = 0

    class Untrained:
        """Stands in for the training of a plan whose runs are leased, and ends as soon as it is resumed."""

        def __init__(self, plan: Plan, store: RunStore, lease: Lease, *_: Any, **__: Any) -> None:
            self.plan, self.store, self.lease, self.ended = plan, store, lease, False
            begun.append(server.now)
            store.begin(plan.specs)

        def resume(self, *_: Any) -> None:
            server.sleep(TRAINING)
            self.lease.check()
            self.store.save_state(self.plan.cohort, {"weight": torch.zeros(1)}, epoch=1)
            for spec in self.plan.specs:
                trained[run_key(spec)] += 1
                self.store.finish(
                    spec,
                    result={"status": "finished", "seed": spec.seed},
                    history=[],
                    provenance={},
                    weights={"weight": torch.zeros(1)},
                )
            self.lease.check()
            self.store.end(self.plan.cohort)
            self.ended = True

    def train_plans(*arguments: Any, **options: Any) -> None:
        nonlocal refused
        try:
            usual(*arguments, **options)
        except packing.Held:
            refused += 1
            raise

    digits = load_images(DataSpec(name="digits"), device="cpu")  # nothing looks at them
    usual: Callable[..., None] = packing.train_plans
    work = partial(execute_all, wanted, device=torch.device("cpu"), progress=False)
    with (
        mock.patch.object(training_loop, "_Training", Untrained),
        mock.patch.object(packing, "train_plans", train_plans),
        mock.patch.object(packing, "load_images", return_value=digits),
        mock.patch.object(run_store, "ThreadPoolExecutor", server.pool),
    ):
        ends = server.run([partial(work, RunStore(store)) for _ in range(programs)])
    twice = sum(times > 1 for times in trained.values())
    assert set(trained) == set(map(run_key, wanted)), "a run was left out"
    at_work = sorted(begun)[min(programs, len(wanted)) - 1]
    return Claims(
        slower,
        finished,
        len(wanted),
        programs,
        at_work,
        max(ends),
        refused,
        server.requests,
        server.waited,
        twice,
    )


def table(
    sizes: Sequence[tuple[int, float]] = ((1, 1.0), (20, 1.0), (200, 1.0), (200, 10.0)),
    *,
    store: Path,
    missing_each: int = 5,
    finished: int = 0,
) -> pd.DataFrame:
    """Return one row per number of programs, with a fixed number of runs for each program.

    Parameters
    ----------
    sizes
        Pairs of a number of programs and the factor by which their server is slower than usual.
    store
        Folder of the store, in which none of the runs of :func:`unfinished` has begun.
    missing_each
        Number of runs to train, per program.
    finished
        Number of finished runs in the store.
    """
    rows, begun = [], 0
    for programs, slower in sizes:
        wanted = unfinished(begun + programs * missing_each)[begun:]
        rows.append(claim(store, wanted, programs, finished=finished + begun, slower=slower).row)
        begun += len(wanted)
    return pd.DataFrame(rows).set_index("programs")
