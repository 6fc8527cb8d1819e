"""Figures of the store at the scale of a cluster, measured once and recorded: ``python -m`` this module.

A store of 100,000 finished runs is written, listed, and asked which runs are missing; then programs claim
more runs of it (:mod:`experiments.benchmarks.store_claims`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from experiments.benchmarks import store_claims
from experiments.benchmarks.store_scale import LOOK, READ, declared, write_runs
from experiments.paths import MEASURED
from experiments.reporting.recorded_tables import code, record
from lpc.specs import PROTOCOL
from lpc.store import RunStore
from lpc.store.listing import FILES, TOGETHER, rows

ASKING = "store_asking"
"""Under which name it is recorded how long it takes to ask a store."""
CLAIMS = "store_claims"
"""Under which name it is recorded how programs share a store."""


def asking(runs: int, root: Path, *, files: int) -> pd.DataFrame:
    """Return the times to list a store and to ask for its missing runs, the first and the second time.

    Parameters
    ----------
    runs
        Runs that :func:`~experiments.benchmarks.store_scale.write_runs` wrote there.
    root
        Folder of the store.
    files
        Number of their files that a first listing reads.

    Returns
    -------
    pandas.DataFrame
        Times by question. ``processor (s)`` is measured; ``requests per run`` are counted from the code; on a
        ``network`` their latency comes on top, as many at once as the library asks.
    """
    wanted, store = declared(runs), RunStore(root)
    looks, reads = runs * len(FILES), files
    asked: dict[str, tuple[Callable[[], int], float, float]] = {
        "list, first": (lambda: len(rows(root, protocol=PROTOCOL)), looks, reads),
        "list, again": (lambda: len(rows(root, protocol=PROTOCOL)), looks, 0),
        "which are missing, first": (lambda: runs - len(store.unfinished(wanted)), 6 * runs, 2 * runs),
        "which are missing, again": (lambda: runs - len(store.unfinished(wanted)), runs, 0),
    }
    table = {}
    for what, (ask, looked, read) in asked.items():
        start = time.process_time()
        assert ask() == runs
        taken = time.process_time() - start
        waiting = (looked * LOOK + read * READ) / min(TOGETHER, -(-runs // TOGETHER))
        table[f"{runs:,} runs: {what}"] = {
            "processor (s)": f"{taken:.2f}",
            "requests per run": f"{(looked + read) / runs:.1f}",
            "network, one by one (s)": f"{taken + looked * LOOK + read * READ:.1f}",
            "network (s)": f"{taken + waiting:.1f}",
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("asked")


def measure(
    sizes: Sequence[int] = (10_000, 100_000),
    programs: Sequence[tuple[int, float]] = ((1, 1.0), (20, 1.0), (200, 1.0), (200, 10.0)),
    *,
    folder: Path | None = None,
    results: Path = MEASURED,
) -> list[Path]:
    """Measure stores of so many runs, have programs claim more of the last, and record both tables.

    Parameters
    ----------
    sizes
        Numbers of finished runs.
    programs
        Numbers of programs, and the factor by which their server is slower than usual.
    folder
        Folder in which stores are made and removed; None: the folder of temporary files.
    results
        Folder of recorded tables.
    """
    by, tables = code(), []
    for runs in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            root = Path(name).resolve()
            tables.append(asking(runs, root, files=write_runs(root, runs)))
            claims = store_claims.table(programs, store=root, finished=runs) if runs == sizes[-1] else None
    assert claims is not None
    place = Path(tempfile.gettempdir()) if folder is None else folder
    return [
        record(name, table, folder=place, results=results, by=by)
        for name, table in ((ASKING, pd.concat(tables)), (CLAIMS, claims))
    ]


if __name__ == "__main__":
    for written in measure():
        print(written)
